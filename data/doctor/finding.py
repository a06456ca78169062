"""What a look at one thing found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tool.errors import InputError

GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """A line: ``ok``, ``warn`` or ``FAIL``, what was looked at, and what was found."""

    status: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:4}  {self.what:13} {self.text}"


def guarded(what: str, look: Callable[..., Iterator[Finding]], *arguments) -> Iterator[Finding]:
    """Yield what a look finds, and a failure where it ends with a sentence."""
    try:
        yield from look(*arguments)
    except InputError as error:
        yield Finding("FAIL", what, str(error))
