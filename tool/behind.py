"""Work that goes on in threads behind the main one, such as writing files while a network runs."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

THREADS = 2


class Behind:
    """Calls functions in threads, at most some of them behind; leaving the context waits for all.

    Args:
        most: calls that may be waiting.
    """

    def __init__(self, most: int = 8) -> None:
        self.most = most
        self._threads = ThreadPoolExecutor(THREADS)
        self._pending: deque[Future] = deque()

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._threads.shutdown()
        if kind is None:
            self.wait()

    def call(self, function: Callable, *arguments: Any) -> None:
        """Call a function soon, and raise what went wrong with an earlier one."""
        self._pending.append(self._threads.submit(function, *arguments))
        self.wait(self.most)

    def wait(self, left: int = 0) -> None:
        """Wait until so many calls are left, and raise what went wrong with the others."""
        while len(self._pending) > left:
            self._pending.popleft().result()
