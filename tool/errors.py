"""The one exception that stands for a mistake in the input, and for memory that is too small."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest

# What messages of PyTorch contain, of the processor's memory and of the GPU's.
LACKING = "out of memory|not enough memory|allocate memory|cpuallocator|bad_alloc"
MEMORY = (
    "The memory does not suffice. Lower --max_pixels, take a smaller batch or window or fewer or "
    "smaller --scales, where the program has them, or reduce large pictures."
)


class InputError(Exception):
    """Something that the user gave cannot be used; the message names it and says what to do.

    Step scripts print the message without a traceback and exit with status 2. Several faults are
    several messages, of which ``str`` gives the first and counts the others.
    """

    def __str__(self) -> str:
        first, *others = self.args
        return f"{first} There are {len(self.args)} such faults." if others else first


def lacks_memory(error: BaseException) -> bool:
    """Return whether an exception says that the memory does not suffice."""
    if isinstance(error, RuntimeError):
        return re.search(LACKING, str(error), re.IGNORECASE) is not None
    return isinstance(error, MemoryError)


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Put ``source`` before the message of an InputError that does not contain it.

    A lack of memory becomes such an InputError.
    """
    try:
        yield
    except InputError as error:
        if str(source) in str(error):
            raise
        raise InputError(f"{source}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise InputError(f"{source}: {MEMORY}") from error


@contextmanager
def collected() -> Iterator[Callable[[object], AbstractContextManager[None]]]:
    """Give a context that keeps InputErrors, see :func:`naming`, and raise them together."""
    faults: dict[str, None] = {}

    @contextmanager
    def keeping(source: object) -> Iterator[None]:
        try:
            with naming(source):
                yield
        except InputError as error:
            faults.update(dict.fromkeys(error.args))

    yield keeping
    if faults:
        raise InputError(*faults)


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
