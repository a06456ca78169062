"""Memory that does not suffice, said in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tool.errors import InputError

WORDS = ("out of memory", "not enough memory", "allocate memory")  # of torch's plain RuntimeError


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn a lack of memory, of the processor or of the GPU, into an InputError.

    It names ``what`` is being worked on, such as the id of a picture.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in WORDS):
            raise
        raise InputError(
            f"The memory does not suffice for {what}. Lower --max_pixels, or --scales and "
            "--batch_size where the program has them."
        ) from error
