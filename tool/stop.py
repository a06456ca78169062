"""How a program ends: when it is asked to, and when its parent has ended."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SECONDS = 1.0  # between looks at a parent
# What asks a program to end; Windows has no SIGHUP.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
ANSWER = b"\nending after this step, which is saved; Ctrl-C ends at once\n"


class Stopped(KeyboardInterrupt):
    """A signal, whose number is ``status`` - 128, asked the program to end.

    ``where`` says in words where it continues.
    """

    def __init__(self, number: int, where: str = "") -> None:
        self.status, self.where = 128 + number, where


@contextmanager
def patience() -> Iterator[list[int]]:
    """Yield a list for the numbers of signals that ask the program to end, by which it may end.

    They are SIGINT (Ctrl-C), SIGTERM and SIGHUP, but for those that the program was started to
    ignore. Another Ctrl-C ends it at once. One that the caller did not see is raised at the end.
    """
    asked, usual = [], {}

    def take(number: int, _) -> None:
        if not asked:
            with suppress(OSError):
                os.write(2, ANSWER)  # the log may be in the middle of a line
        asked.append(number)
        if signal.SIGINT in usual:
            signal.signal(signal.SIGINT, usual[signal.SIGINT])

    for number in SIGNALS:
        with suppress(ValueError):  # only the main thread gets signals
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                usual[number] = signal.signal(number, take)
    try:
        yield asked
    finally:
        for number, action in usual.items():
            signal.signal(number, action)
    if asked:
        raise Stopped(asked[0])


def follow_launcher() -> None:
    """Ask this process to end, by a signal, when the one that started it has ended."""
    parent = os.getppid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def follow_parent(_: int) -> None:
    """End this process of a loader with its parent, whatever ends that, and not before it.

    A signal that reaches all processes of a program is the parent's to answer.
    """
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(started_by: int) -> None:
    parent = multiprocessing.parent_process()  # it may have asked a server to start this one
    while parent.is_alive() and os.getppid() == started_by and not _ended_by(parent.pid):
        pass
    os._exit(0)


def _ended_by(parent: int) -> bool:
    """Wait a moment; tell whether the parent has sent SIGTERM, which others send in vain."""
    if not hasattr(signal, "sigtimedwait"):  # Windows, macOS
        time.sleep(SECONDS)
        return False
    sent = signal.sigtimedwait([signal.SIGTERM], SECONDS)
    return sent is not None and sent.si_pid == parent
