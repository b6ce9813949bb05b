"""Runs a program so that it dies with the process that started it, even one that is killed with SIGKILL.

``python -I -S tether.py PARENT -- PROGRAM ARGUMENT...`` is what ``core.process`` starts. On Linux the kernel
is asked to kill this process when its parent goes, and the program then takes this process over, so nothing
extra stays. Elsewhere, on macOS, this process stays beside the program and watches both: when the parent goes
it kills their process group, which is its own, and otherwise it ends the way the program ended.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # importing typing would cost as long as all the rest of this file
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

CANNOT_EXECUTE = 126
"""The exit status where the program is there and cannot be started; a shell's custom."""
NOT_FOUND = 127
"""The exit status where it is not there."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def become(argv: list[str]) -> NoReturn:
    """Turn this process into the program; failing that, say why on stderr and leave."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so by exec
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - without a shell, as meant
    except OSError as error:
        os.write(2, f"{argv[0]} cannot be started: {error.strerror}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; Linux.

    To the kernel the parent is the *thread* that started this process. The wish outlasts an exec, except of a
    program that gains rights by it, and the program's own children do not inherit it.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        sys.exit(f"PR_SET_PDEATHSIG was refused: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the kernel knew our wish
        os.kill(os.getpid(), signal.SIGKILL)


def guard(parent: int, argv: list[str], first_to_end: Callable[[int, int], int]) -> NoReturn:
    """Stay beside the program until it or the parent ends; ``first_to_end`` waits, and returns which it was.

    This process must lead the process group that it and the program are in.
    """
    program = os.fork()
    if program == 0:
        become(argv)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # sent to the group; how the program answers counts
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)  # the pipes are the program's alone: they close when it closes them
    if first_to_end(parent, program) == parent:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    if status >= 0:
        os._exit(status)
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    os._exit(CANNOT_EXECUTE)  # not reached: the signal ended the program, and it ends this process


if sys.platform != "linux":
    import select

    def first_to_end(parent: int, program: int) -> int:
        """Wait until one of two processes ends, by kqueue; the parent where it is both."""
        queue = select.kqueue()
        for pid in (parent, program):
            flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
            event = select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)
            try:
                queue.control([event], 0)
            except ProcessLookupError:
                return pid  # it has ended
        if os.getppid() != parent:
            return parent  # it had ended, and what we watch is another process by its number
        ended = {event.ident for event in queue.control(None, 2)}
        return parent if parent in ended else program


def main(arguments: list[str]) -> NoReturn:
    """Run ``PARENT -- PROGRAM ARGUMENT...``."""
    parent, argv = int(arguments[0]), arguments[2:]
    if sys.platform == "linux":
        die_with(parent)
        become(argv)
    else:
        guard(parent, argv, first_to_end)


if __name__ == "__main__":
    main(sys.argv[1:])
