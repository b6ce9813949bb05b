"""Real children: fed, drained, timed, stopped, orphaned, and never left alive."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from core import fsops, process, tether
from core.errors import Cancelled, ProcessFailed, Stopped
from core.work import unwatched
from tests.waiting import children, until

PROJECT = Path(process.__file__).parents[1]
FOREVER = "600"
LONG = 20.0  # no test waits so long; a child that is still there then is what the test is about


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not: who reaps an orphan, and when, is none of our business."""
    if sys.platform == "linux":
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        ps = ["/bin/ps", "-o", "state=", "-p", str(pid)]
        state = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
    return state[:1] not in {"", "Z", "X"}


class Watch:
    """A ``Report`` that remembers, and raises once ``ready`` says so."""

    def __init__(self, error: Exception | None = None, ready: Callable[[], object] = lambda: True) -> None:
        self.fractions: list[float] = []
        self.raised_at = 0.0
        self._error, self._ready = error, ready

    def __call__(self, fraction: float) -> None:
        self.fractions.append(fraction)
        if self._error is not None and self._ready():
            self.raised_at = time.monotonic()
            raise self._error


class Pids:
    """An ``on_line`` for children that say the numbers of processes."""

    def __init__(self, expected: int = 1) -> None:
        self.seen: list[int] = []
        self.expected = expected

    def __call__(self, line: str) -> None:
        self.seen.append(int(line))

    @property
    def complete(self) -> bool:
        return len(self.seen) == self.expected


# ----------------------------------------------------------------------------------- what a child says


def test_output_is_returned_and_lines_are_told_as_they_come() -> None:
    lines: list[str] = []
    said = process.run(["printf", "a\nb\rc\r\n\nd"], unwatched, limit=LONG, on_line=lines.append)
    assert said == ("a\nb\rc\r\n\nd", "")
    assert lines == ["a", "b", "c", "d"]


def test_a_number_from_on_line_is_what_report_hears() -> None:
    watch = Watch()
    child = python("import sys, time\nprint(3, flush=True); time.sleep(0.5)")
    process.run(child, watch, limit=LONG, on_line=lambda line: int(line) / 4)
    assert watch.fractions[0] == 0
    assert watch.fractions[-1] == 0.75


def test_report_is_called_though_the_child_says_nothing() -> None:
    watch = Watch()
    process.run(["sleep", "0.6"], watch, limit=LONG)
    assert len(watch.fractions) >= 4


def test_no_shell_sees_the_arguments() -> None:
    nasty = ["$HOME", "; echo oops", "a  b", "*", "two\nlines", "-x", "'\"", "日本"]
    said = process.run(["printf", "%s|", *nasty], unwatched, limit=LONG)
    assert said.stdout == "".join(f"{word}|" for word in nasty)


def test_megabytes_of_stderr_are_drained_and_only_the_end_is_kept() -> None:
    code = "import sys\nfor _ in range(64): sys.stderr.write('x' * 2**20)\nsys.stderr.write('the end')"
    said = process.run(python(code), unwatched, limit=LONG)
    assert len(said.stderr) == process.KEPT_BYTES
    assert said.stderr.endswith("xthe end")


def test_a_line_without_end_takes_no_more_memory_than_a_kept_stream() -> None:
    lines: list[str] = []
    child = python("import sys\nfor _ in range(8): sys.stdout.write('x' * 2**20)\nsys.stdout.write('y')")
    process.run(child, unwatched, limit=LONG, on_line=lines.append)
    assert [len(line) for line in lines] == [process.KEPT_BYTES]
    assert lines[0].endswith("xy")


def test_bytes_that_are_no_text_are_no_error() -> None:
    assert process.run(["printf", r"\377\n"], unwatched, limit=LONG).stdout == "\N{REPLACEMENT CHARACTER}\n"


# ----------------------------------------------------------------------------------------- how it ends


def test_exit_status_and_stderr_are_in_the_error() -> None:
    with pytest.raises(ProcessFailed, match=r"sh failed with exit status 3: no such luck") as caught:
        process.run(["sh", "-c", "echo no such luck >&2; exit 3"], unwatched, limit=LONG)
    assert (caught.value.returncode, caught.value.stderr) == (3, "no such luck\n")


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(process.ProgramMissing, match="no-such-program") as caught:
        process.run(["no-such-program", "-x"], unwatched, limit=LONG)
    assert caught.value.program == "no-such-program"


def test_a_program_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF and nothing more")
    broken.chmod(0o755)
    with pytest.raises(ProcessFailed, match="broken cannot be started") as caught:
        process.run([str(broken)], unwatched, limit=LONG)
    assert caught.value.returncode == tether.CANNOT_EXECUTE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE, signal.SIGXFSZ])
def test_signals_have_their_default_effect_and_show_as_negative_status(number: signal.Signals) -> None:
    with pytest.raises(ProcessFailed) as caught:
        process.run(["sh", "-c", f"kill -{number.value} $$; echo survived"], unwatched, limit=LONG)
    assert caught.value.returncode == -number


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"], ids=["obedient", "deaf to SIGTERM"])
def test_a_child_that_hangs_is_killed_at_its_limit(trap: str) -> None:
    pids = Pids()
    script = f"{trap} echo $$; echo last words >&2; while :; do sleep 1; done"
    begun = time.monotonic()
    with pytest.raises(process.TimedOut, match=r"last words\nkilled after 1 s") as caught:
        process.run(["sh", "-c", script], unwatched, limit=1, on_line=pids)
    assert 1 <= time.monotonic() - begun < 5
    assert isinstance(caught.value, ProcessFailed)
    assert not alive(pids.seen[0])


@pytest.mark.parametrize("error", [Stopped(), Cancelled()], ids=["stopped", "cancelled"])
def test_what_report_raises_ends_the_child_within_two_seconds(error: Exception) -> None:
    pids = Pids()
    watch = Watch(error, lambda: pids.complete)
    with pytest.raises(type(error)) as caught:
        process.run(["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1; done"], watch, limit=LONG, on_line=pids)
    assert time.monotonic() - watch.raised_at < 2
    assert caught.value is error
    assert not alive(pids.seen[0])


def test_a_stopped_child_may_put_its_things_in_order(tmp_path: Path) -> None:
    pids, mark = Pids(), tmp_path / "mark"
    script = 'trap "touch \\"$0\\"; exit" TERM; echo $$; while :; do sleep 0.01; done'
    with pytest.raises(Stopped):
        process.run(["sh", "-c", script, str(mark)], Watch(Stopped(), lambda: pids.complete), limit=LONG, on_line=pids)
    assert mark.exists()


def test_what_on_line_raises_ends_the_child() -> None:
    pids: list[int] = []

    def refuse(line: str) -> None:
        pids.append(int(line))
        raise LookupError

    with pytest.raises(LookupError):
        process.run(["sh", "-c", f"echo $$; exec sleep {FOREVER}"], unwatched, limit=LONG, on_line=refuse)
    assert not alive(pids[0])


# -------------------------------------------------------------------------------------- what it is fed


def test_stdin_is_empty_unless_fed() -> None:
    assert process.run(["cat"], unwatched, limit=LONG).stdout == ""


def test_buffers_arrive_whole_and_in_order() -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (40, 181, 101, 3), np.uint8)
    buffers: list[memoryview | bytes] = [b"header", b"", *(memoryview(frame) for frame in frames)]
    code = "import hashlib, sys\nprint(hashlib.file_digest(sys.stdin.buffer, 'sha256').hexdigest())"
    said = process.run(python(code), unwatched, limit=LONG, stdin=buffers)
    assert said.stdout.strip() == hashlib.sha256(b"header" + frames.tobytes()).hexdigest()


def test_a_child_that_talks_while_it_is_fed_makes_no_deadlock() -> None:
    block = memoryview(bytes(range(256)) * 4096)
    said = process.run(["tee", "/dev/stderr"], unwatched, limit=LONG, stdin=[block] * 32)
    assert len(said.stdout) == len(said.stderr)
    assert said.stdout


def test_a_child_may_stop_reading() -> None:
    block = bytes(1 << 20)
    assert len(process.run(["head", "-c", "10"], unwatched, limit=LONG, stdin=[block] * 64).stdout) == 10


def test_a_child_that_dies_while_it_is_fed_fails_with_its_own_words() -> None:
    with pytest.raises(ProcessFailed, match="exit status 5: enough"):
        process.run(["sh", "-c", "echo enough >&2; exit 5"], unwatched, limit=LONG, stdin=[bytes(1 << 20)] * 64)


def test_a_child_that_reads_nothing_can_be_stopped() -> None:
    with pytest.raises(Stopped):
        process.run(["sleep", FOREVER], Watch(Stopped()), limit=LONG, stdin=[bytes(1 << 22)] * 4)


def test_what_the_buffers_raise_ends_the_child() -> None:
    pids = Pids()

    def buffers() -> Iterator[bytes]:
        while not pids.complete:
            yield b"."
        raise EOFError

    with pytest.raises(EOFError):
        process.run(
            ["sh", "-c", f"echo $$; exec sleep {FOREVER}"],
            unwatched,
            limit=LONG,
            stdin=buffers(),
            on_line=pids,
        )
    assert not alive(pids.seen[0])


# ------------------------------------------------------------------------------- what it leaves behind


def test_grandchildren_die_with_a_stopped_child() -> None:
    pids = Pids(2)
    script = f"sleep {FOREVER} & echo $!; echo $$; wait"
    with pytest.raises(Stopped):
        process.run(["sh", "-c", script], Watch(Stopped(), lambda: pids.complete), limit=LONG, on_line=pids)
    until(lambda: not any(map(alive, pids.seen)), "both are dead")


def test_a_child_that_ends_leaves_nobody_behind_and_is_not_waited_for_longer() -> None:
    pids = Pids()
    process.run(["sh", "-c", f"sleep {FOREVER} & echo $!"], unwatched, limit=LONG, on_line=pids)
    until(lambda: not alive(pids.seen[0]), "the grandchild is dead")


PARENT = """
import sys
from pathlib import Path
from core import fsops, process
from core.work import unwatched
from tests.waiting import children, until

lock = fsops.lock(Path(sys.argv[1]))
assert lock is not None
process.run(["sh", "-c", f"echo $$; exec sleep {sys.argv[2]}"], unwatched, limit=600,
            on_line=lambda line: print(line, flush=True))
"""


def test_a_child_dies_with_a_parent_that_is_killed_and_the_lock_goes_with_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), FOREVER], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        assert fsops.lock(tmp_path) is None
        parent.kill()
    until(lambda: not alive(child), "the child is dead")
    lock = fsops.lock(tmp_path)
    assert lock is not None
    os.close(lock)


def test_a_tether_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sh", "-c", "exit"]) as gone:
        pass
    mark = tmp_path / "mark"
    argv = process.tethered(["touch", str(mark)])
    argv[argv.index("--") - 1] = str(gone.pid)
    assert subprocess.run(argv, process_group=0, check=False).returncode == -signal.SIGKILL
    assert not mark.exists() or sys.platform != "linux"  # macOS starts it and kills it


def test_a_child_holds_the_lock_of_its_worker_for_as_long_as_it_lives(tmp_path: Path) -> None:
    ours = fsops.lock(tmp_path)
    assert ours is not None
    held: list[int | None] = []

    def let_go_and_try(_: str) -> None:
        os.close(ours)  # as the death of the worker would
        held.append(fsops.lock(tmp_path))
        raise Stopped

    with pytest.raises(Stopped):
        process.run(["sh", "-c", f"echo ready; exec sleep {FOREVER}"], unwatched, limit=LONG, on_line=let_go_and_try)
    assert held == [None]
    free = fsops.lock(tmp_path)
    assert free is not None
    os.close(free)


def test_a_child_has_no_descriptor_that_is_not_marked(tmp_path: Path) -> None:
    code = "import os, sys\nos.fstat(int(sys.argv[1]))"
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(ProcessFailed, match="Bad file descriptor"):
            process.run(python(code, str(file.fileno())), unwatched, limit=LONG)
        os.set_inheritable(file.fileno(), True)
        process.run(python(code, str(file.fileno())), unwatched, limit=LONG)


def test_no_descriptor_and_no_zombie_stays_with_us() -> None:
    before, family = len(list(Path("/dev/fd").iterdir())), children()
    for _ in range(3):
        process.run(["cat"], unwatched, limit=LONG, stdin=[b"x"])
        with pytest.raises(Stopped):
            process.run(["sleep", FOREVER], Watch(Stopped()), limit=LONG, stdin=[bytes(1 << 22)])
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert children() == family


# ------------------------------------------------------------------------------- the guardian of macOS
# On macOS every test above runs under it. Here it runs with Linux's way to wait for the end of a process.

GUARD = """
import os, select, sys
from core import tether

def first_to_end(*pids):
    poll = select.poll()
    names = {os.pidfd_open(pid): pid for pid in pids}
    for fd in names:
        poll.register(fd, select.POLLIN)
    return min((names[fd] for fd, _ in poll.poll()), key=pids.index)

tether.guard(int(sys.argv[1]), sys.argv[2:], first_to_end)
"""
needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits by pidfd, which is Linux's")


def guarded(*argv: str, parent: int | None = None) -> list[str]:
    return [sys.executable, "-c", GUARD, str(parent or os.getpid()), *argv]


@needs_pidfd
@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -15 $$", -15), ("kill -9 $$", -9), ("kill -13 $$", -13)]
)
def test_the_guardian_ends_as_its_program_ends(script: str, status: int) -> None:
    done = subprocess.run(guarded("sh", "-c", script), cwd=PROJECT, process_group=0, check=False)
    assert done.returncode == status


@needs_pidfd
def test_the_guardian_leaves_signals_and_pipes_to_its_program() -> None:
    script = f"trap 'exit 3' TERM; echo ready; exec >&- 2>&-; while :; do sleep 0.01; done; sleep {FOREVER}"
    with subprocess.Popen(
        guarded("sh", "-c", script), cwd=PROJECT, process_group=0, stdout=subprocess.PIPE, text=True
    ) as guardian:
        assert guardian.stdout is not None
        assert guardian.stdout.read() == "ready\n"  # to the end: nobody else holds the pipe
        os.killpg(guardian.pid, signal.SIGTERM)
        assert guardian.wait(LONG) == 3


@needs_pidfd
def test_the_guardian_kills_its_group_when_the_parent_is_gone() -> None:
    with subprocess.Popen(["/bin/sleep", FOREVER]) as parent:
        argv = guarded("sh", "-c", f"echo $$; exec sleep {FOREVER}", parent=parent.pid)
        with subprocess.Popen(argv, cwd=PROJECT, process_group=0, stdout=subprocess.PIPE, text=True) as guardian:
            assert guardian.stdout is not None
            program = int(guardian.stdout.readline())
            assert alive(program)
            parent.kill()
            assert guardian.wait(LONG) == -signal.SIGKILL
    until(lambda: not alive(program), "the program is dead")
