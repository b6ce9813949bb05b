"""The only module that starts a child: an argument list, drained output, a time limit, death with its parent.

A child is tied to this process three times over. It is killed when the call that runs it ends in any way but
by the child's own end. It dies when this process does, by ``core.tether``; what it started in turn then finds
its pipes closed. And it inherits the one descriptor that is marked inheritable, the worker's lock, so that
nobody takes a clip over while the child, or what it started, may still write into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from core import tether
from core.errors import DropreelError, ProcessFailed
from core.work import Report

TICK_SECONDS = 0.05
"""How often ``report`` is called, whatever the child does."""
GRACE_SECONDS = 0.5
"""How long a child that must go has, from SIGTERM to SIGKILL, to put its own things in order."""
KEPT_BYTES = 64 << 10
"""How much is kept of the end of what a child says; also the longest line."""

_PIPE_BYTES = 1 << 20  # what Linux gives anyone who asks, and more than any pipe holds unasked
_LINE_END = re.compile(rb"[\r\n]+")  # rsync ends its progress lines with a carriage return


class Output(NamedTuple):
    """What a program said that ended well: the last ``KEPT_BYTES`` of each stream."""

    stdout: str
    stderr: str


class ProgramMissing(DropreelError):
    """A program that Dropreel needs is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{self.__doc__} Program: {program}")
        self.program = program


class TimedOut(ProcessFailed):
    """A program that Dropreel started did not end in time, and was killed."""

    def __init__(self, program: str, limit: float, stderr: str) -> None:
        super().__init__(program, -signal.SIGKILL, f"{stderr.rstrip()}\nkilled after {limit:g} s")
        self.limit = limit


def tethered(argv: Sequence[str]) -> list[str]:
    """The argument list that starts ``argv`` so that it dies with this process; see ``core.tether``.

    On Linux it dies with the *thread* that starts it: start it from one that lives as long as it should.
    """
    return [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), "--", *argv]


def run(
    argv: Sequence[str],
    report: Report,
    *,
    limit: float,
    stdin: Iterable[memoryview | bytes] | None = None,
    on_line: Callable[[str], float | None] | None = None,
    cwd: Path | None = None,
) -> Output:
    """Run a program to its end, from the main thread or one that lives as long as this process.

    Args:
        argv: the program, looked up in ``PATH``, and its arguments; no shell sees them.
        report: called every ``TICK_SECONDS`` with the last fraction known. What it raises ends the child.
        limit: seconds after which the child is killed.
        stdin: C-contiguous buffers, written as they are, uncopied, as fast as the child reads; taking the
            next one should take no longer than a tick. A child that stops reading is no error here: how it
            ends says whether it was one. Without, its stdin is empty.
        on_line: called with each line of stdout; a number that it returns is the new fraction.
        cwd: the folder in which it works; this process's own without.

    Raises:
        ProgramMissing: there is no such program.
        ProcessFailed: it ended with another exit status than 0, or by a signal, which is a negative one.
        TimedOut: a ``ProcessFailed`` that took too long.

    However this ends, the child and all that is left of its process group are dead when it does.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise ProgramMissing(argv[0])
    name = Path(program).name
    begun = due = time.monotonic()
    with _start([program, *argv[1:]], fed=stdin is not None, cwd=cwd) as child:
        try:
            with selectors.DefaultSelector() as selector:
                stdout = _Stream(child.stdout, selector, on_line)
                stderr = _Stream(child.stderr, selector)
                if stdin is not None:
                    _feed(child.stdin, stdin, selector)
                while child.poll() is None:
                    now = time.monotonic()
                    if now - begun > limit:
                        raise TimedOut(name, limit, stderr.text)
                    if now >= due:
                        report(stdout.fraction)
                        due = now + TICK_SECONDS
                    if selector.get_map():
                        for key, _ in selector.select(due - now):
                            key.data()
                    else:
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            child.wait(due - now)
        finally:
            _end(child)
        stdout.finish()
        stderr.finish()
    if child.returncode != 0:
        raise ProcessFailed(name, child.returncode, stderr.text)
    return Output(stdout.text, stderr.text)


def _start(argv: Sequence[str], *, fed: bool, cwd: Path | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        tethered(argv),
        stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        process_group=0,
        cwd=cwd,
        # On purpose: Python's descriptors are not inheritable unless marked (PEP 446), and the one that is
        # marked is the worker's lock, by fsops.lock. A child must hold it until it is dead: see the top.
        close_fds=False,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the child's process group alive."""

    def send(number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses where all are zombies
            os.killpg(child.pid, number)

    if child.poll() is None:
        send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    send(signal.SIGKILL)  # a child that has ended may have left others; its number is not given away so soon
    child.wait()


class _Stream:
    """One of the child's outputs: its end is kept, its lines go to whom they concern."""

    def __init__(
        self,
        pipe: IO[bytes] | None,
        selector: selectors.BaseSelector,
        on_line: Callable[[str], float | None] | None = None,
    ) -> None:
        assert pipe is not None  # noqa: S101 - we asked for it
        self.fraction = 0.0
        self._pipe, self._selector, self._on_line = pipe, selector, on_line
        self._kept, self._line = bytearray(), b""
        os.set_blocking(pipe.fileno(), False)
        selector.register(pipe, selectors.EVENT_READ, self._read)

    @property
    def text(self) -> str:
        """The end of what came."""
        return self._kept.decode(errors="replace")

    def finish(self) -> None:
        """Take what the child said last. Others may still hold the pipe, so its end is not waited for."""
        if not self._pipe.closed:
            with contextlib.suppress(BlockingIOError):
                self._take(os.read(self._pipe.fileno(), _PIPE_BYTES))
        if self._line:
            self._tell(self._line)

    def _read(self) -> None:
        data = os.read(self._pipe.fileno(), KEPT_BYTES)
        if data:
            self._take(data)
        else:
            self._selector.unregister(self._pipe)
            self._pipe.close()

    def _take(self, data: bytes) -> None:
        self._kept += data
        del self._kept[:-KEPT_BYTES]
        if self._on_line is not None:
            *whole, rest = _LINE_END.split(self._line + data)
            self._line = rest[-KEPT_BYTES:]
            for line in filter(None, whole):
                self._tell(line)

    def _tell(self, line: bytes) -> None:
        fraction = self._on_line(line.decode(errors="replace")) if self._on_line else None
        if fraction is not None:
            self.fraction = fraction


def _feed(pipe: IO[bytes] | None, buffers: Iterable[memoryview | bytes], selector: selectors.BaseSelector) -> None:
    """Have the selector write the buffers to the child, and then close its stdin."""
    assert pipe is not None  # noqa: S101 - we asked for it
    fd = pipe.fileno()
    os.set_blocking(fd, False)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a smaller pipe does too
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def write() -> Iterator[None]:
        for buffer in buffers:
            left = memoryview(buffer).cast("B")
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(fd, left) :]
                yield

    writes = write()

    def step() -> None:
        try:
            next(writes)
        except (StopIteration, BrokenPipeError):
            selector.unregister(pipe)
            pipe.close()

    selector.register(pipe, selectors.EVENT_WRITE, step)
