"""The command line as an operator uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from core.contract import VideoMeta, load
from core.process import run
from core.work import unwatched
from tests.acceptance.processes import Household
from tests.house import SIDECAR, picture
from tests.waiting import children, until

pytestmark = pytest.mark.timeout(60)


def dropreel(*words: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Run a command to its end: exit status, stdout, stderr."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DROPREEL")}
    done = subprocess.run(
        [sys.executable, "-m", "daemons.cli", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment | {"COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.timeout(240)
def test_demo_brings_back_a_playable_clip_and_leaves_no_process(tmp_path: Path) -> None:
    motion = tmp_path / "m.json"
    motion.write_text(json.dumps({**SIDECAR, "duration_sec": 4.0}))
    image = tmp_path / "my [1] picture.png"
    image.write_bytes(picture(1, (1024, 576)))
    before = children()
    status, out, err = dropreel(
        "demo", "--home", str(tmp_path / "demo"), "--keyframe", str(image), "--motion", str(motion)
    )
    assert status == 0, err
    (video,) = (tmp_path / "demo/mac/results").rglob("*.mp4")
    meta = load(VideoMeta, video.with_name(f"{video.stem}.video_meta.json"))
    assert (meta.frames, meta.fps, meta.width, meta.height, meta.outcome) == (120, 30, 1024, 576, "pass")
    for word in (video.name, "1024×576", "120 at 30", "pass"):
        assert word in out
    assert children() == before
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
    assert run(
        ["cmp", str(image), *map(str, (tmp_path / "demo/mac/__video_keyframes/sent").rglob("*.png"))],
        unwatched,
        limit=10,
    )


@pytest.mark.parametrize("role", ["mac", "gpu", "both"])
def test_init_makes_the_folders_of_its_role_and_never_a_second_home(tmp_path: Path, role: str) -> None:
    home = tmp_path / "home"
    assert dropreel("init", str(home), "--role", role)[0] == 0
    halves = {"mac": {"mac"}, "gpu": {"gpu"}, "both": {"mac", "gpu"}}[role]
    assert {path.name for path in home.iterdir() if path.is_dir()} == halves
    assert f'role = "{role}"' in (home / "dropreel.toml").read_text()
    status, _, err = dropreel("init", str(home))
    assert status == 1
    assert "There is a home" in err


def test_check_says_what_is_wrong_and_exits_with_1(tmp_path: Path) -> None:
    image, sidecar = tmp_path / "a.png", tmp_path / "a.motion.json"
    image.write_bytes(picture(1, (1024, 576)))
    sidecar.write_text(json.dumps({**SIDECAR, "duration_sec": 6.0}))
    assert dropreel("check", str(image)) == (0, f"{image}: would be taken\n", "")
    sidecar.write_text(json.dumps({**SIDECAR, "duration_sec": 6.0, "end_frame": [0.5, 0.5, 1.5, 1.0]}))
    status, out, _ = dropreel("check", str(tmp_path), "--json")
    assert status == 1
    (finding,) = next(iter(json.loads(out).values()))
    assert (finding["code"], finding["field"]) == ("rect_outside_image", "end_frame")
    status, out, _ = dropreel("check", str(tmp_path))
    assert (status, out.splitlines()[-1]) == (1, f"{image}: would be rejected")
    image.unlink()
    sidecar.write_text(json.dumps({**SIDECAR, "duration_sec": 6.0}))
    status, out, _ = dropreel("check", str(tmp_path))
    assert (status, out.splitlines()[-1]) == (0, f"{sidecar}: would wait for its image")
    status, _, err = dropreel("check", str(tmp_path / "nothing"))
    assert status == 1
    assert "There is no" in err


def test_schema_and_tail_and_a_missing_home(tmp_path: Path) -> None:
    assert set(json.loads(dropreel("schema")[1])) >= {"manifest", "motion_sidecar", "video_meta"}
    assert dropreel("schema", "nothing")[0] == 1
    status, _, err = dropreel("status", cwd=tmp_path)
    assert status == 78
    assert "dropreel init" in err
    dropreel("init", str(tmp_path))
    assert dropreel("run", "intake", "--once", cwd=tmp_path)[0] == 0
    assert "daemon.started" in dropreel("tail", "intake", "--no-follow", cwd=tmp_path)[1]
    status, _, err = dropreel("run", "qa", "--worker", "../x", cwd=tmp_path)
    assert status == 78
    assert "A worker is called by" in err


def test_what_is_the_servers_is_refused_on_the_mac(tmp_path: Path) -> None:
    _, out, _ = dropreel("init", str(tmp_path), "--role", "mac")
    assert out.index("ssh-setup") < out.index("dropreel up"), "the link comes first"
    for words in (("pause", "all"), ("resume", "qa"), ("retry", "all"), ("cancel", "a"), ("run", "generate")):
        status, out, err = dropreel(*words, "--home", str(tmp_path))
        assert (status, out) == (78, "")
        assert err.count("\n") == 1
        assert "Run it on the server." in err


def test_no_home_is_made_in_a_folder_of_the_studios(tmp_path: Path) -> None:
    status, _, err = dropreel("init", str(tmp_path / "mojo1" / "home"))
    assert status == 1
    assert str(tmp_path / "mojo1" / "home") in err
    assert "Choose another folder." in err
    assert not list(tmp_path.iterdir())


def test_no_line_is_broken_where_nobody_looks(tmp_path: Path) -> None:
    folder = tmp_path / "_".join(["a_long_name"] * 20)
    assert str(folder) in dropreel("init", str(folder))[1]
    _, out, _ = dropreel("doctor", "--home", str(folder))
    assert str(folder) in out


def test_services_shown_are_neither_written_nor_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # where no service manager listens
    home = tmp_path / "home"
    dropreel("init", str(home))

    def services(*words: str) -> tuple[int, str]:
        return dropreel("services", *words, "--scope", "user", "--home", str(home))[:2]

    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("*dropreel*") if path.is_file() and home not in path.parents]

    assert services("install", "--print")[0] == 0
    assert not files()
    if sys.platform == "darwin":  # launchd listens elsewhere, and would start them
        return
    assert services("install")[0] == 0
    before = files()
    assert before
    status, out = services("uninstall", "--print")
    assert status == 0
    assert files() == before
    assert all(str(path) in out for path in before)
    assert services("status", "--print")[0] == 2
    assert services("uninstall")[0] == 0
    assert not files()


def test_ssh_setup_says_where_nobody_answers_and_what_a_path_there_is(tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").write_text('role = "mac"\n[transport]\nkind = "rsync"\nhost = "127.0.0.1"\nport = 1\n')
    status, _, err = dropreel("ssh-setup", "--home", str(tmp_path))
    assert status == 1
    assert "No sshd answers at 127.0.0.1, port 1." in err
    for path in ("~/dropreel", "dropreel"):
        assert dropreel("ssh-setup", "--home", str(tmp_path), "--server-home", path)[0] == 2


def test_a_home_is_up_once_and_what_dies_in_it_is_started_again(tmp_path: Path) -> None:
    house = Household(tmp_path / "home")
    try:
        up = house.dropreel("up")
        logs = [
            house.home.mac.logs / "keyframes.log",
            house.home.mac.logs / "courier.log",
            house.gpu / "logs/intake.log",
        ]
        until(lambda: all(log.exists() and "daemon.started" in log.read_text() for log in logs), "they run")
        for words in (("up",), ("run", "courier"), ("run", "intake")):
            status, _, err = house.command(*words)
            assert status == 75
            assert "already" in err
            assert "--worker" not in err

        log = house.gpu / "logs/qa@cpu0.log"

        def starts() -> int:
            return log.read_text().count("daemon.started") if log.exists() else 0

        until(lambda: starts() == 1, "qa runs")
        pid = int(log.read_text().split("pid=")[1].split()[0])
        os.kill(pid, signal.SIGKILL)
        until(lambda: starts() == 2, "qa runs again")
        up.send_signal(signal.SIGTERM)
        assert up.wait(15) == 0
    finally:
        house.close()
