"""Memory that does not suffice, told in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tool.errors import InputError

REDUCE = "Reduce the picture."  # mends
LOWER_PIXELS = "Lower --max_pixels."
WORDS = ("out of memory", "not enough memory", "allocate memory")  # of torch's plain RuntimeError


@contextmanager
def enough_memory(what: str, mend: str) -> Iterator[None]:
    """Turn a lack of memory, of the processor or of the GPU, into an InputError.

    It names ``what`` is being worked on, such as the id of a picture; ``mend`` is a sentence.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in WORDS):
            raise
        raise InputError(f"The memory does not suffice for {what}. {mend}") from error
