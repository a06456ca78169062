"""The one exception that stands for a mistake in the input."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Something that the user gave cannot be used; the message names it and the mend.

    Step scripts print the message without a traceback and exit with status 2.
    """


@contextmanager
def naming(source: str | Path) -> Iterator[None]:
    """Put ``source`` before the message of an InputError that does not contain it."""
    try:
        yield
    except InputError as error:
        if str(source) in str(error):
            raise
        raise InputError(f"{source}: {error}") from error


def reason_of(error: Exception) -> str:
    """Return what a library says about a damaged file, as part of a sentence."""
    found = re.search(r"WeightsUnpickler error: *(.+)", str(error))  # torch's own words
    text = found[1] if found else (str(error).splitlines() or [""])[0]
    return printable(text)[:200].rstrip(". ") or type(error).__name__


def printable(text: str) -> str:
    """Return a text of a file without what would tear the line it is printed on."""
    return "".join(letter for letter in text if letter.isprintable())
