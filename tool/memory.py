"""Memory that does not suffice, said in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tool.errors import InputError

# What messages of PyTorch contain, of the processor's memory and of the GPU's.
WORDS = "out of memory|not enough memory|allocate memory|cpuallocator|bad_alloc"


def is_lack(error: BaseException) -> bool:
    """Return whether an exception says that the memory does not suffice."""
    if isinstance(error, RuntimeError):
        return re.search(WORDS, str(error), re.IGNORECASE) is not None
    return isinstance(error, MemoryError)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn a lack of memory, of the processor or of the GPU, into an InputError.

    It names ``what`` is being worked on, such as the id of a picture.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_lack(error):
            raise
        raise InputError(
            f"The memory does not suffice for {what}. Lower --max_pixels, or --scales and "
            "--batch_size where the program has them."
        ) from error
