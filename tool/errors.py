"""The one exception that stands for a mistake in the input."""

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path


class InputError(Exception):
    """Something that the user gave cannot be used; the message names it and says what to do.

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


def printable(text: str) -> str:
    """Return a text of a file without what would tear the line it is printed on."""
    return "".join(letter for letter in text if letter.isprintable())


def apart(one: str, other: str) -> tuple[str, str]:
    """Return two names as they are, or in escapes where they differ in Unicode's form alone."""
    forms = {unicodedata.normalize("NFC", name) for name in (one, other)}
    if one != other and len(forms) == 1:
        return ascii(one)[1:-1], ascii(other)[1:-1]
    return one, other


def first_difference(names: Sequence[str], others: Sequence[str]) -> str:
    """Say where two lists of classes, which are not equal, differ first."""
    pairs = enumerate(zip_longest(names, others, fillvalue="missing"))
    number, pair = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    one, other = apart(*pair)
    return f"class {number} is {one}, not {other}"
