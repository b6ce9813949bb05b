"""The doctor over a real link, in real trouble: what is provoked is found, with its remedy, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from core import fsops
from core.doctor import Patient, Result, doors, link
from core.doctor.versions import judge
from core.home import Home
from core.rsync import Flavour
from core.settings import TransportSettings, load_settings
from core.ssh import Ssh
from tests.house import TINY
from tests.integration.sshd import Sshd, make_key, needs_sshd

RSYNC = shutil.which("rsync")
pytestmark = pytest.mark.timeout(120)  # a look at a link makes twelve connections


class Machines(NamedTuple):
    """The Mac's home, and the server's."""

    patient: Patient
    ssh: Ssh
    sshd: Sshd
    server: Home

    def results(self) -> dict[str, Result]:
        """What the checks of the link find, by name."""
        return {result.name: result for check in link.CHECKS for result in check.look(self.patient)}

    def troubles(self) -> dict[str, Result]:
        """What is not as it should be."""
        return {name: found for name, found in self.results().items() if found.verdict != "ok"}

    def allow(self, inbox: str, outbox: str) -> None:
        """Say what ``authorized_keys`` puts before the two keys."""
        keys = (door.public.read_text().strip() for door in self.ssh.doors)
        self.sshd.allow(*(f"{options} {key}".strip() for options, key in zip((inbox, outbox), keys, strict=True)))


BOTH_FAIL = {"inbox_ed25519": "fail", "outbox_ed25519": "fail"}


def verdicts(found: dict[str, Result]) -> dict[str, str]:
    return {name: result.verdict for name, result in found.items()}


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Two homes whose link is well."""
    sshd = Sshd(tmp_path / "sshd")
    root, server = tmp_path / "home", Home(tmp_path / "server")
    root.mkdir()
    (root / "dropreel.toml").write_text(
        f'role = "mac"\n[transport]\nkind = "rsync"\n'
        f'host = "{sshd.address}"\nport = {sshd.port}\nuser = "{sshd.user}"\n'
    )
    fsops.confine()
    patient = Patient(*load_settings(root))
    patient.home.prepare(patient.home.mac)
    server.prepare(server.gpu)
    server.gpu.status.write_text(json.dumps({"version": version("dropreel")}))
    ssh = Ssh(root, patient.settings.transport)
    ssh.folder.mkdir()
    for door in ssh.doors:
        make_key(door.key)
    ssh.known_hosts.write_text(sshd.known_hosts)
    sshd.allow(*ssh.authorized_keys(str(server.root)))
    sshd.start()
    yield Machines(patient, ssh, sshd, server)
    sshd.stop()


@needs_sshd
def test_a_link_that_is_well(machines: Machines) -> None:
    found = machines.results()
    assert verdicts(found) == dict.fromkeys(
        ["rsync", "ssh", "keys", "inbox_ed25519", "outbox_ed25519", "server", "versions"], "ok"
    )
    probe = machines.server.gpu.result_acks / doors.PROBE
    assert list(machines.server.root.rglob("*.doctor*")) == [probe], "nothing else is left there"
    assert not list(machines.patient.home.mac.state.glob(".doctor*")), "and nothing here"


@needs_sshd
def test_a_server_that_is_off(machines: Machines) -> None:
    machines.sshd.stop()
    assert verdicts(machines.troubles()) == {"server": "fail"}


@needs_sshd
def test_a_server_with_another_key_gets_nothing(machines: Machines, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    kind, key, *_ = (tmp_path / "other.pub").read_text().split()
    machines.ssh.known_hosts.write_text(f"{machines.sshd.known_hosts.split()[0]} {kind} {key}\n")
    found = machines.troubles()
    assert verdicts(found) == {"server": "fail"}
    assert "SHA256:" in found["server"].seen
    assert "Accepted publickey" not in (machines.sshd.folder / "sshd.log").read_text()
    assert not (machines.server.gpu.result_acks / doors.PROBE).exists()


@needs_sshd
def test_keys_that_the_server_does_not_know(machines: Machines) -> None:
    machines.sshd.allow()
    found = machines.troubles()
    assert verdicts(found) == BOTH_FAIL
    assert "Permission denied" in found["inbox_ed25519"].seen
    assert "transport.user" in (found["outbox_ed25519"].remedy or "")
    assert found["inbox_ed25519"].remedy == "As for outbox_ed25519.", "what is to be done is said once"


@needs_sshd
def test_keys_that_were_exchanged(machines: Machines) -> None:
    inbox, outbox = (door.public.read_text().strip() for door in machines.ssh.doors)
    for_inbox, for_outbox = machines.ssh.authorized_keys(str(machines.server.root))
    machines.sshd.allow(for_inbox.replace(inbox, outbox), for_outbox.replace(outbox, inbox))
    found = machines.troubles()
    assert verdicts(found) == BOTH_FAIL
    assert "it cannot read the outbox" in found["outbox_ed25519"].seen


@needs_sshd
def test_keys_that_open_everything(machines: Machines) -> None:
    machines.allow("", "")
    found = machines.troubles()
    assert verdicts(found) == BOTH_FAIL
    assert all("a shell, a terminal, forwarding" in result.seen for result in found.values())
    assert not list(machines.server.root.rglob(".doctor*")), "with a shell nothing is sent"
    assert not (Path.home() / doors.PROBE).exists()


@needs_sshd
def test_keys_that_do_more_than_they_must(machines: Machines) -> None:
    gpu, rrsync = machines.server.gpu, shutil.which("rrsync")
    machines.allow(
        f'no-pty,command="{rrsync} -no-lock {gpu.inbox}"', f'restrict,pty,command="{rrsync} -no-lock {gpu.outbox}"'
    )
    found = machines.troubles()
    assert verdicts(found) == BOTH_FAIL
    assert found["inbox_ed25519"].seen.endswith(": forwarding, reading, deleting")
    assert found["outbox_ed25519"].seen.endswith(": a terminal, writing")


@needs_sshd
def test_a_key_that_opens_the_wrong_folder(machines: Machines, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    other.gpu.outbox.mkdir(parents=True)
    machines.sshd.allow(*machines.ssh.authorized_keys(str(other.root)))
    assert verdicts(machines.troubles()) == {"status": "warn", "inbox_ed25519": "fail"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, {"status": "warn"}),
        ("{}", {"versions": "warn"}),
        ("half of", {"versions": "warn"}),
        ('{"version": "0.0.1"}', {"versions": "warn"}),
        (json.dumps({"version": version("dropreel")}), {"versions": "ok"}),
        (json.dumps({"version": version("dropreel"), "rsync": None}), {"versions": "ok"}),
        (json.dumps({"version": version("dropreel"), "rsync": "3.2.7"}), {"versions": "ok", "rsync there": "warn"}),
        (json.dumps({"version": version("dropreel"), "rsync": "3.5.0"}), {"versions": "ok", "rsync there": "ok"}),
    ],
)
def test_what_the_server_says_of_itself(tmp_path: Path, content: str | None, found: dict[str, str]) -> None:
    file = tmp_path / "status.json"
    if content is not None:
        file.write_text(content)
    results = doors._status(file, Ssh(tmp_path, TransportSettings()).outbox)
    assert {result.name: result.verdict for result in results} == found


def test_key_files_are_looked_at_before_the_server_is(tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").write_text('role = "mac"\n[transport]\nkind = "rsync"\nhost = "nowhere.invalid"\n')
    patient = Patient(*load_settings(tmp_path))
    ssh = Ssh(tmp_path, patient.settings.transport)
    ssh.folder.mkdir()
    ssh.inbox.key.write_text("")
    ssh.inbox.key.chmod(0o644)
    found = {result.name: result for result in link.keys(patient)}
    assert verdicts(found) == BOTH_FAIL | {"known_hosts": "fail"}
    assert found["inbox_ed25519"].remedy == f"chmod 600 {ssh.inbox.key}"
    assert list(link.server(patient)) == [], "nobody is asked"


@needs_sshd
def test_a_host_that_no_name_server_knows_is_told_once(machines: Machines) -> None:
    machines.patient.settings.transport.host = "nowhere.invalid"
    found = machines.troubles()
    assert verdicts(found) == {"server": "fail"}
    assert found["server"].seen.count("getaddrinfo") == 1


@needs_sshd
def test_programs_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def troubles(role: str) -> dict[str, str]:
        settings = f'role = "{role}"\n[transport]\nkind = "rsync"\nhost = "server"\n'
        (tmp_path / "dropreel.toml").write_text(settings)
        return {r.name: r.verdict for r in link.programs(Patient(*load_settings(tmp_path))) if r.verdict == "fail"}

    assert troubles("gpu") == {"rsync": "fail", "rrsync": "fail"}
    assert troubles("mac") == dict.fromkeys(["rsync", "ssh", "ssh-keygen", "ssh-keyscan"], "fail")
    (programs / "rsync").symlink_to(str(RSYNC))
    assert troubles("gpu") == {"rrsync": "fail"}


def test_a_mac_that_has_no_way_to_a_server(tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").write_text('role = "mac"\n')
    assert [result.verdict for result in link.route(Patient(*load_settings(tmp_path)))] == ["fail"]


@pytest.mark.parametrize(
    ("flavour", "macos", "verdict"),
    [
        (Flavour("openrsync", (29,)), "15.4", "fail"),
        (Flavour("openrsync", (29,)), "15.4.1", "warn"),
        (Flavour("rsync", (3, 2, 7)), "", "warn"),
        (Flavour("rsync", (3, 5, 0)), "15.4", "ok"),
        (Flavour("rsync", (4,)), "", "ok"),
    ],
)
def test_which_rsync_will_do(flavour: Flavour, macos: str, verdict: str) -> None:
    assert judge(flavour, (3, 5, 0), macos).verdict == verdict


# The command


def dropreel_doctor(home: Path, *words: str, inside: str = "") -> tuple[int, str, str]:
    """Run the command to its end, after these words of a shell where they are given, in name spaces of its own."""
    command = [sys.executable, "-m", "daemons.cli", "doctor", "--home", str(home), *words]
    if inside:
        command = ["unshare", "-Urm", "sh", "-ec", f'{inside}\nexec "$@"', "sh", *command]
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Home:
    root = tmp_path / "my [1] home"
    root.mkdir()
    (root / "dropreel.toml").write_text(TINY)
    fsops.confine()
    settings, home = load_settings(root)
    assert settings.role == "both"
    home.prepare(home.mac, home.gpu)
    return home


def troubles(said: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What is wrong in a ``--json``, by family and name."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in json.loads(said)["results"]:
        assert (result["remedy"] is not None) == (result["verdict"] in {"warn", "fail"}), result
        if result["verdict"] in {"warn", "fail"}:
            found.setdefault((result["family"], result["name"]), []).append(result)
    return found


def test_the_command_on_a_home_that_is_well(home: Home) -> None:
    status, out, err = dropreel_doctor(home.root)
    assert (status, err) == (0, "")
    assert f"{home.mac.hot}\n" in "".join(line.rstrip() + "\n" for line in out.splitlines()), "no markup, no cut"
    assert "dropreel up" in out, "warnings do not fail it, and have their remedy"
    status, out, _ = dropreel_doctor(home.root, "--json")
    assert (status, list(troubles(out))) == (0, [("daemons", "running")])


def test_settings_that_cannot_be_used_are_not_diagnosed(home: Home) -> None:
    (home.root / "dropreel.toml").write_text("nonsense = 1")
    status, out, err = dropreel_doctor(home.root)
    assert (status, out) == (78, "")
    assert "nonsense" in err


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode != 0,
    reason="no name spaces for this user",
)
def test_folders_on_other_disks_and_a_limit_on_watches(home: Home) -> None:
    gpu = home.gpu
    status, out, err = dropreel_doctor(
        home.root,
        "--json",
        inside=f"""
            mount -t tmpfs none '{gpu.outbox}'
            mount --bind '{gpu.inbox}' '{gpu.inbox}'
            mount -t tmpfs -o ro none '{gpu.logs}'
            echo 3 > /proc/sys/user/max_inotify_watches
        """,
    )
    assert (status, err) == (1, "")
    found = troubles(out)
    assert set(found) == {("folders", "gpu"), ("watching", "mac"), ("watching", "gpu"), ("daemons", "running")}
    other, read_only = found["folders", "gpu"]
    assert other["seen"] == f"{gpu.inbox}, {gpu.outbox}: on another file system than {gpu.root}"
    assert read_only["seen"] == f"{gpu.logs}: on a disk that is mounted read-only"
    assert {result["verdict"] for family in ("mac", "gpu") for result in found["watching", family]} == {"warn"}
