"""The files for systemd and launchd: systemd itself reads them, each launchd key is checked; installed, and gone."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import fsops, gpu
from core.errors import BadSettings, DropreelError, ProcessFailed
from core.gpu import CARD_DRIVER
from core.metrics import folder_of
from core.services import systemd
from core.services.launchd import Launchd
from core.services.plan import Command, Installation, Manager, State, carry_out
from core.services.systemd import BACKOFF_SINCE, Systemd
from core.settings import load_settings

ODD = 'My 50% "Reels" $HOME \\ für & <uns>'
EXPOSURE_MAX = 2.5
WORKERS = '[rooms]\nworkers = {{ generate = [{}], encode = ["cpu0", "cpu-1"] }}\n'

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


class Mute(Systemd):
    """As on a machine that systemd did not boot."""

    @property
    def answers(self) -> bool:
        return False


class Talking(Systemd):
    """As on a machine that it did."""

    @property
    def answers(self) -> bool:
        return True


Make = Callable[..., Installation]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes an installation."""
    fsops.confine()

    def installation(name: str = "home", role: str = "both", more: str = "", **facts: Any) -> Installation:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        (root / "dropreel.toml").write_text(f'role = "{role}"\n{more}')
        settings, home = load_settings(root)
        return Installation(settings, home, facts.pop("role_asked", role), **facts)

    return installation


def _written(manager: Manager) -> Path:
    for path, data in manager.files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return manager.folder


def _analyze(*words: str) -> tuple[int, str, str]:
    ended = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def _units(manager: Systemd) -> list[str]:
    return [str(manager.folder / unit) for unit in (*manager.units, "dropreel.target", "dropreel-prune.service")]


def _lines(manager: Manager, ending: str) -> list[str]:
    (text,) = (data.decode() for path, data in manager.files().items() if str(path).endswith(ending))
    return text.splitlines()


# systemd


@needs_systemd
@pytest.mark.parametrize("scope", ["system", "user"])
@pytest.mark.parametrize("name", ["home", ODD])
def test_systemd_has_nothing_to_say_against_the_units(
    make: Make, tmp_path: Path, name: str, scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    hot = f"[hot_folder]\nfolder = '{tmp_path / 'hot folder'}'\n"
    workers = WORKERS.format('"gpu0", "GPU-8932f937"')
    python = tmp_path / name.translate({ord(mark): None for mark in '"\\'}) / "python"
    python.parent.mkdir(exist_ok=True)
    python.symlink_to(sys.executable)
    what = make(name, more=hot + workers, cards=True, python=python)
    manager = Systemd(what, scope, tmp_path / "units")
    _written(manager)
    flag = ["--user"] if scope == "user" else []
    assert _analyze(*flag, "verify", *_units(manager)) == (0, "", "")
    python.unlink()  # that it looks so closely is what the test stands on
    assert "is not executable" in _analyze(*flag, "verify", *_units(manager))[2]


@needs_systemd
def test_the_growing_pause_is_for_the_systemd_that_knows_it(make: Make, tmp_path: Path) -> None:
    installed = Systemd(make(), "system", tmp_path).version
    assert installed > 200
    for version in (252, 254):
        manager = Systemd(make(), "system", tmp_path / str(version), version)
        _written(manager)
        shared = sorted(
            (path.name, data.decode()) for path, data in manager.files().items() if "-.service.d" in str(path)
        )
        first_pauses = re.findall("^RestartSec=(.+)$", "".join(text for _, text in shared), re.MULTILINE)
        assert first_pauses == (["10s"] if version < BACKOFF_SINCE else ["10s", "2s"]), "the last one counts"
        complaints = _analyze("verify", *_units(manager))[2]
        assert ("RestartSteps" in complaints) == (version >= BACKOFF_SINCE > installed)


@needs_systemd
@pytest.mark.parametrize("role", ["mac", "gpu"])
def test_no_unit_is_more_exposed_than_it_has_to_be(make: Make, tmp_path: Path, role: str) -> None:
    manager = Systemd(make(role=role, cards=True), "system", tmp_path / "units")
    _written(manager)
    services = [unit for unit in _units(manager) if unit.endswith(".service")]
    assert len(services) == {"mac": 3, "gpu": 6}[role]
    for unit in services:
        _, said, _ = _analyze("security", "--offline=true", "--no-pager", unit)
        (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert float(exposure) <= EXPOSURE_MAX, unit


@needs_systemd
def test_the_cards_are_seen_by_those_who_compute_on_them(make: Make, tmp_path: Path) -> None:
    manager = Systemd(make(cards=True), "system", tmp_path / "units")
    _written(manager)
    hidden = {}
    for unit in (unit for unit in _units(manager) if unit.endswith(".service")):
        said = json.loads(_analyze("security", "--offline=true", "--json=short", unit)[1])
        (row,) = (row for row in said if row["name"] == "PrivateDevices=")
        hidden[re.sub(r"^dropreel-|@?\w*\.service$", "", Path(unit).name)] = row["set"]
    assert {name for name, devices in hidden.items() if not devices} == {"generate", "interpolate"}
    assert len(hidden) > 4


def test_a_users_systemd_is_asked_for_nothing_that_it_has_no_right_to(make: Make, tmp_path: Path) -> None:
    manager = Systemd(make(cards=True), "user", tmp_path, 254)
    keys = {line.partition("=")[0] for data in manager.files().values() for line in data.decode().splitlines()}
    assert "NoNewPrivileges" in keys
    assert not keys & {"User", "CapabilityBoundingSet", "DeviceAllow", "DevicePolicy"}
    assert [key for key in keys if key.startswith(("Protect", "Private", "ReadWrite"))] == []


def test_a_path_reads_back_as_it_was(make: Make, tmp_path: Path) -> None:
    what = make(ODD, more=f"[hot_folder]\nfolder = '{tmp_path / 'hot 100%'}'\n")
    lines = [*_lines(Systemd(what, "system", tmp_path), "service.conf"),
             *_lines(Systemd(what, "system", tmp_path), "sandbox.conf")]  # fmt: skip

    def read(key: str) -> list[str]:
        (value,) = (line.partition("=")[2] for line in lines if line.startswith(f"{key}="))
        return [word.replace("%%", "%") for word in shlex.split(value)]

    assert read("Environment") == [f"DROPREEL_HOME={tmp_path / ODD}"]
    assert read("ReadWritePaths") == [f"-{tmp_path / ODD}", f"-{tmp_path / 'hot 100%'}"]


def test_a_path_that_no_unit_can_hold_is_refused(make: Make) -> None:
    with pytest.raises(BadSettings, match="No service file can hold"):
        make("a\nb")


def test_a_program_that_systemd_would_not_start_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="quote or a backslash"):
        Systemd(make(python=Path("/opt/o'brien/python")), "system", tmp_path)


def test_a_daemon_has_time_to_stop_and_its_watchdog_is_that_of_the_settings(make: Make, tmp_path: Path) -> None:
    what = make(more="[daemons]\nstop_seconds = 99.5\nwatchdog_seconds = 7.2\n")
    manager = Systemd(what, "system", tmp_path)
    (stop,) = (line for line in _lines(manager, "service.conf") if line.startswith("TimeoutStopSec="))
    assert float(re.sub(r"\D", "", stop)) > 99.5
    assert "WatchdogSec=8s" in _lines(manager, "dropreel-intake.service")


@pytest.mark.parametrize(
    ("worker", "card"),
    [("gpu0", "0"), ("gpu12", "12"), ("GPU-8932f937", "GPU-8932f937"), ("MIG-1a", "MIG-1a"), ("cpu0", None),
     ("gpu", None), ("gpu0b", None)],
)  # fmt: skip
def test_a_workers_name_says_which_card_is_its(make: Make, tmp_path: Path, worker: str, card: str | None) -> None:
    for cards in (True, False):
        what = make(more=WORKERS.format(f'"{worker}"'), cards=cards)
        own = [data.decode() for path, data in Systemd(what, "system", tmp_path).files().items()
               if path.parent.name == f"dropreel-generate@{worker}.service.d"]  # fmt: skip
        assert own == [] if card is None or not cards else f'"CUDA_VISIBLE_DEVICES={card}"' in own[0]


def test_the_target_starts_every_worker_of_the_role(make: Make, tmp_path: Path) -> None:
    more = WORKERS.format('"gpu0", "gpu1"')

    def wanted(role: str) -> set[str]:
        what = make(more=more, role_asked=role)
        (line,) = (line for line in _lines(Systemd(what, "system", tmp_path), "dropreel.target") if "Wants=" in line)
        return {re.sub(r"^dropreel-|\.\w+$", "", unit) for unit in line.removeprefix("Wants=").split()}

    rooms = {"generate@gpu0", "generate@gpu1", "interpolate@gpu0", "qa@cpu0", "encode@cpu0", "encode@cpu-1"}
    assert wanted("mac") == {"keyframes", "courier", "prune"}
    assert wanted("gpu") == rooms | {"intake", "prune"}
    assert wanted("both") == wanted("mac") | wanted("gpu")


def test_another_role_than_the_homes_is_refused(make: Make) -> None:
    with pytest.raises(BadSettings, match="is mac; there is nothing of gpu"):
        make(role="mac", role_asked="gpu")


# Installed, and gone again.


def test_an_installation_replaces_the_one_before_and_leaves_a_persons_own_files(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "PRIVATE", ())
    folder = tmp_path / "units"
    first = Mute(make(more=WORKERS.format('"gpu0", "gpu1"'), cards=True), "system", folder)
    left = first.install()
    assert [command.argv[1] for command in left] == ["daemon-reload", "enable"]
    assert set(first.installed()) == set(first.files())
    own = folder / "dropreel-generate@gpu1.service.d/override.conf"
    own.write_text("[Service]\nNice=5\n")
    stranger = folder / "dropreel-mine.service"
    stranger.write_text("[Service]\nExecStart=/bin/true\n")

    second = Mute(make(more=WORKERS.format('"gpu0"'), cards=True), "system", folder)
    second.install()
    assert set(second.installed()) == set(second.files())
    assert [path.name for path in own.parent.iterdir()] == ["override.conf"]

    second.uninstall()
    assert {path for path in folder.rglob("*") if path.is_file()} == {own, stranger}
    assert set(folder.iterdir()) == {own.parent, stranger}


def test_a_home_that_the_services_would_not_see_is_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "PRIVATE", (tmp_path / "home",))
    with pytest.raises(BadSettings, match="would not see"):
        Mute(make(), "system", tmp_path / "units").install()
    assert not (tmp_path / "units").exists()
    Mute(make(), "user", tmp_path / "units").install()  # a user's systemd hides nothing
    assert (tmp_path / "units").exists()


@pytest.mark.parametrize(("folder", "own"), [("figures", False), ("../figures", True)])
def test_a_metrics_folder_is_where_the_daemons_write_it(make: Make, folder: str, own: bool) -> None:
    what = make(more=f'[metrics]\nfolder = "{folder}"\n')
    written = folder_of(what.settings.metrics, what.home, what.home.gpu.state).resolve()
    assert any(written.is_relative_to(place) for place in what.writable)
    assert (written in what.writable) == own
    assert not any(".." in place.parts for place in what.writable), "systemd ignores such a path"


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that writes down what it is told; a systemd that was not booted does nothing at all."""
    script = tmp_path / "bin" / "systemctl"
    script.parent.mkdir()
    script.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/told
case "$*" in
    *stop*) exit 5;;
    *show*) printf '%s\\n' Id=dropreel.target ActiveState=active SubState=active '' Id=dropreel-qa@cpu0.service \\
            ActiveState=active SubState=running Result=success 'StatusText=qa x: 42 %, about 3 s left' '' \\
            Id=dropreel-intake.service ActiveState=failed SubState=failed Result=exit-code StatusText= ;;
esac
""")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return tmp_path / "told"


def test_systemd_is_told_to_stop_what_ran_before_and_to_start_the_new(
    make: Make, tmp_path: Path, systemctl: Path
) -> None:
    manager = Talking(make(), "user", tmp_path / "units", 252)
    assert manager.install() == []
    assert [line.split()[1] for line in systemctl.read_text().splitlines()] == ["daemon-reload", "enable"]
    manager.install()
    assert [line.split()[1] for line in systemctl.read_text().splitlines()][2:] == ["stop", "daemon-reload", "enable"]
    assert manager.uninstall() == []
    told = systemctl.read_text().splitlines()[5:]
    assert [line.split()[1] for line in told] == ["stop", "disable", "daemon-reload", "reset-failed"]
    assert all(line.startswith("--user ") for line in systemctl.read_text().splitlines())


def test_the_states_are_systemds_own_words_and_the_daemons(make: Make, tmp_path: Path, systemctl: Path) -> None:
    assert Talking(make(), "system", tmp_path / "units", 252).states() == [
        State("dropreel.target", "active (active)", ""),
        State("dropreel-qa@cpu0.service", "active (running)", "qa x: 42 %, about 3 s left"),
        State("dropreel-intake.service", "failed (failed): exit-code", ""),
    ]


def test_a_command_that_must_not_fail_is_heard_and_a_patient_one_tries_again(tmp_path: Path) -> None:
    carry_out([Command(("false",), may_fail=True)])
    with pytest.raises(ProcessFailed):
        carry_out([Command(("false",))])
    once = tmp_path / "once"
    carry_out([Command(("sh", "-c", f"test -e {once} || {{ touch {once}; exit 5; }}"), patience=10.0)])
    assert once.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_may_not_be_written_says_what_to_do(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "units"
    folder.mkdir(0o555)
    with pytest.raises(DropreelError, match="sudo"):
        Mute(make(), "system", folder).install()


# launchd

STRING, BOOL, INTEGER, STRINGS = (str,), (bool,), (int,), (list,)
LAUNCHD_KEYS: dict[str, tuple[type, ...]] = {
    "AbandonProcessGroup": BOOL, "AssociatedBundleIdentifiers": (str, list), "BundleProgram": STRING,
    "Debug": BOOL, "Disabled": BOOL, "EnableGlobbing": BOOL, "EnablePressuredExit": BOOL, "EnableTransactions": BOOL,
    "EnvironmentVariables": (dict,), "ExitTimeOut": INTEGER, "GroupName": STRING, "HardResourceLimits": (dict,),
    "InitGroups": BOOL, "KeepAlive": (bool, dict), "Label": STRING, "LaunchEvents": (dict,), "LaunchOnlyOnce": BOOL,
    "LegacyTimers": BOOL, "LimitLoadFromHardware": (dict,), "LimitLoadFromHosts": STRINGS,
    "LimitLoadToHardware": (dict,), "LimitLoadToHosts": STRINGS, "LimitLoadToSessionType": (str, list),
    "LowPriorityBackgroundIO": BOOL, "LowPriorityIO": BOOL, "MachServices": (dict,), "MaterializeDatalessFiles": BOOL,
    "Nice": INTEGER, "OnDemand": BOOL, "ProcessType": STRING, "Program": STRING, "ProgramArguments": STRINGS,
    "QueueDirectories": STRINGS, "RootDirectory": STRING, "RunAtLoad": BOOL, "ServiceIPC": BOOL,
    "SessionCreate": BOOL, "Sockets": (dict,), "SoftResourceLimits": (dict,), "StandardErrorPath": STRING,
    "StandardInPath": STRING, "StandardOutPath": STRING, "StartCalendarInterval": (dict, list),
    "StartInterval": INTEGER, "StartOnMount": BOOL, "ThrottleInterval": INTEGER, "TimeOut": INTEGER,
    "Umask": INTEGER, "UserName": STRING, "WaitForDebugger": BOOL, "WatchPaths": STRINGS, "WorkingDirectory": STRING,
    "inetdCompatibility": (dict,),
}  # fmt: skip
"""launchd.plist(5). Neither plistlib nor ``plutil -lint`` knows a key that launchd does not."""
WITHIN: dict[str, dict[str, type]] = {
    "KeepAlive": {"SuccessfulExit": bool, "Crashed": bool, "NetworkState": bool, "AfterInitialDemand": bool,
                  "PathState": dict, "OtherJobEnabled": dict},
    "StartCalendarInterval": dict.fromkeys(("Minute", "Hour", "Day", "Weekday", "Month"), int),
}  # fmt: skip
CHOICES = {
    "ProcessType": {"Background", "Standard", "Adaptive", "Interactive"},
    "LimitLoadToSessionType": {"Aqua", "Background", "LoginWindow", "StandardIO", "System"},
}


@pytest.mark.parametrize("name", ["home", ODD])
def test_every_key_of_the_agents_is_one_that_launchd_knows(make: Make, tmp_path: Path, name: str) -> None:
    files = Launchd(make(name, role="mac"), "user", tmp_path).files()
    assert len(files) == 2
    for path, data in files.items():
        agent = plistlib.loads(data)
        assert path.name == f"{agent['Label']}.plist"
        for key, value in agent.items():
            assert type(value) in LAUNCHD_KEYS[key], key
            assert value in CHOICES.get(key, {value}) if isinstance(value, str) else True
            for inner, part in value.items() if key in WITHIN else ():
                assert type(part) is WITHIN[key][inner], f"{key}.{inner}"
        assert all(type(word) is str for word in agent["ProgramArguments"])
        environment = agent["EnvironmentVariables"]
        assert all(type(value) is str for value in environment.values())
        assert environment["DROPREEL_HOME"] == str(tmp_path / name)
        paths = [agent["ProgramArguments"][0], agent["StandardErrorPath"], *environment["PATH"].split(":")]
        assert [path for path in paths if not Path(path).is_absolute()] == []
        assert "/opt/homebrew/bin" in paths, "where rsync 3 is"
        assert not re.search(r"@[A-Z]+@|~", data.decode())


def test_the_agent_is_kept_alive_and_has_time_to_stop(make: Make, tmp_path: Path) -> None:
    what = make(role="mac", more="[daemons]\nstop_seconds = 40.0\n")
    agent = plistlib.loads(Launchd(what, "user", tmp_path).files()[tmp_path / "dropreel.up.plist"])
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["RunAtLoad"] is True
    assert agent["ExitTimeOut"] > 41, "`dropreel up` itself waits a second longer than stop_seconds"
    assert "StandardOutPath" not in agent, "what the daemons say lies in logs that rotate"


def test_launchd_has_no_system_scope(make: Make) -> None:
    with pytest.raises(DropreelError, match="--scope user only"):
        Launchd(make(role="mac"), "system")


# The card.


def test_no_card_is_tested_where_none_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu.self_test() == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.self_test() == ""


@pytest.mark.skipif(CARD_DRIVER.exists(), reason="this machine has a card")
def test_a_card_that_is_not_there_is_no_setting_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937")
    with pytest.raises(BadSettings, match=r"CUDA_VISIBLE_DEVICES=GPU-8932f937 .* torch (cannot be imported|sees 0)"):
        gpu.self_test()


@pytest.mark.skipif(not CARD_DRIVER.exists(), reason="this machine has no card")
def test_a_card_that_works_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert re.search(r"\d+ GiB, compute capability \d", gpu.self_test())
