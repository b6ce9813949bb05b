"""What the end of an rsync means: whether to try again, to tell somebody, or to go on with the rest."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from core.errors import BadSettings, DiskFull, DropreelError, ProcessFailed
from core.rsync import Incomplete, LinkLost, LinkRefused, Rsync, ServerFull, probe
from core.settings import TransportSettings
from core.work import unwatched

PULL, PUSH = ("dropreel-outbox:./", "here/"), ("/here/", "dropreel-inbox:./")


def _program(folder: Path, said: str, status: int, says_on: str = "2") -> Path:
    """A program that takes rsync's arguments down, says something and ends so."""
    program = folder / "rsync"
    lines = ["#!/bin/sh", f'printf "%s\\n" "$@" > {shlex.quote(str(folder / "arguments"))}',
             f"echo {shlex.quote(said)} >&{says_on}", f"exit {status}"]  # fmt: skip
    program.write_text("\n".join(lines) + "\n")
    program.chmod(0o755)
    return program


def _settings(program: Path | str, **more: int) -> TransportSettings:
    return TransportSettings.model_validate({"kind": "rsync", "host": "gpu", "rsync": str(program), **more})


@pytest.mark.parametrize(
    ("way", "status", "said", "meaning"),
    [
        (PUSH, 255, "ssh: connect to host gpu port 22: Connection refused", LinkLost),
        (PUSH, 255, "ssh: Could not resolve hostname gpu: Temporary failure in name resolution", LinkLost),
        (PUSH, 12, "rsync: connection unexpectedly closed (0 bytes received so far) [sender]", LinkLost),
        (PULL, 10, "rsync error: error in socket IO (code 10)", LinkLost),
        (PULL, 30, "rsync error: timeout in data send/receive (code 30)", LinkLost),
        (PULL, 20, "rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20)", LinkLost),
        (PULL, 23, "rsync error: some files/attrs were not transferred (code 23)", Incomplete),
        (PULL, 24, "rsync warning: some files vanished before they could be transferred (code 24)", Incomplete),
        (PULL, 23, 'rsync: [sender] opendir "x" failed: Permission denied (13)', Incomplete),
        (
            PULL,
            23,
            'rsync: send_files failed to open "Host key verification failed": Input/output error (5)',
            Incomplete,
        ),
        (PULL, 1, "rsync: unknown option", LinkRefused),
        (PULL, 2, "rsync error: protocol incompatibility (code 2)", LinkRefused),
        (PUSH, 255, "Host key verification failed.", LinkRefused),
        (PUSH, 255, "dropreel@gpu: Permission denied (publickey).", LinkRefused),
        (PUSH, 12, "/usr/bin/rrsync error: reading from write-only server is not allowed", LinkRefused),
        (PUSH, 11, 'rsync: [receiver] write failed on "001.png": No space left on device (28)', ServerFull),
        (PUSH, 11, 'rsync: [receiver] write failed on "001.png": Disk quota exceeded (122)', ServerFull),
        (PULL, 11, 'rsync: [receiver] write failed on "clip.mp4": No space left on device (28)', DiskFull),
    ],
)
def test_the_end_of_a_call_says_what_to_do(
    tmp_path: Path, way: tuple[str, str], status: int, said: str, meaning: type[DropreelError]
) -> None:
    rsync = Rsync(_settings(_program(tmp_path, said, status)), tmp_path, unwatched)
    with pytest.raises(meaning) as caught:
        rsync(*way, ["+*"])
    assert type(caught.value) is meaning
    assert meaning is DiskFull or said in str(caught.value), "it repeats what was said"


def test_what_a_person_must_mend_comes_with_a_remedy(tmp_path: Path) -> None:
    rsync = Rsync(_settings(_program(tmp_path, "Host key verification failed.", 255)), tmp_path, unwatched)
    with pytest.raises(LinkRefused, match="dropreel ssh-setup"):
        rsync(*PUSH, ["+*"])


def test_the_line_is_shared_as_the_settings_say(tmp_path: Path) -> None:
    for kib, words in ((0, []), (250, ["--bwlimit=250"])):
        program = _program(tmp_path, "", 0)
        Rsync(_settings(program, bandwidth_kib=kib), tmp_path, unwatched)(*PUSH, ["+/a b/", "-*"])
        arguments = (tmp_path / "arguments").read_text().splitlines()
        assert [word for word in arguments if word.startswith("--bwlimit")] == words
        assert arguments[-4:] == ["--include=/a b/", "--exclude=*", *PUSH]


OPENRSYNC_KNOWS = {"-rt", "-e", "--timeout", "--bwlimit", "--include", "--exclude", "--inplace", "--max-size"}
"""From its manual page: what macOS' rsync is asked for must be there."""


LIMIT = "--max-size=8"


@pytest.mark.parametrize("options", [(), (LIMIT,), ("--inplace", LIMIT)], ids=["push", "look", "fetch"])
def test_nothing_is_asked_of_rsync_that_openrsync_does_not_know(tmp_path: Path, options: tuple[str, ...]) -> None:
    Rsync(_settings(_program(tmp_path, "", 0), bandwidth_kib=1), tmp_path, unwatched)(*PULL, ["+/a/", "-*"], *options)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert {word.split("=")[0] for word in arguments if word.startswith("-")} <= OPENRSYNC_KNOWS


@pytest.mark.parametrize(
    ("said", "name", "version"),
    [
        ("openrsync: protocol version 29", "openrsync", (29,)),
        ("rsync  version 3.5.0  protocol version 32", "rsync", (3, 5, 0)),
        ("rsync  version v3.4.1  protocol version 32", "rsync", (3, 4, 1)),
    ],
)
def test_every_flavour_is_known_by_what_it_says(tmp_path: Path, said: str, name: str, version: tuple[int, ...]) -> None:
    assert probe(str(_program(tmp_path, said, 0, says_on="1")), unwatched) == (name, version)


@pytest.mark.parametrize("said", ["rsync  version 2.6.9  protocol version 29", "something else", ""])
def test_what_is_no_rsync_that_will_do_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(BadSettings, match="needs rsync 3 or openrsync"):
        probe(str(_program(tmp_path, said, 0, says_on="1")), unwatched)


def test_without_rsync_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="apt install rsync, or brew install rsync"):
        probe(str(tmp_path / "none"), unwatched)


def test_an_rsync_that_is_killed_says_nothing_of_the_settings(tmp_path: Path) -> None:
    program = tmp_path / "rsync"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    with pytest.raises(ProcessFailed):  # and not BadSettings, with which its daemon would be given up for good
        probe(str(program), unwatched)
