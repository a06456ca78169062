"""Files appear whole or not at all, and under names that stay in their folder."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tool.errors import InputError

LONGEST_NAME = 100  # bytes of a name that is made of a text


def write_atomic(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Call ``write(file)`` on a temporary neighbour of ``path``, then rename it to ``path``.

    A killed process leaves the old file, or none, and never half of one. Folders are made.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def safe_name(text: str) -> str:
    """Return a file name for any text, such as a class name, of at most LONGEST_NAME bytes.

    Letters, digits, space, dash, underscore, and dots but at the beginning stay; other characters
    are percent-encoded. Distinct texts have distinct names: a long name is cut off, and ends in a
    digest of the whole.
    """
    kept = "".join(
        c
        if c.isalnum() or c in " -_" or (c == "." and i > 0)
        else "".join(f"%{byte:02X}" for byte in c.encode(errors="surrogatepass"))
        for i, c in enumerate(text)
    )
    if len(kept.encode()) <= LONGEST_NAME:
        return kept or "%"
    end = "~" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return kept.encode()[: LONGEST_NAME - len(end)].decode(errors="ignore") + end


def clear_unfinished(folder: str | Path, name: str = "*") -> None:
    """Delete what killed processes left of :func:`write_atomic` in a folder, if there is one."""
    for left in Path(folder).glob(f".{name}.*.tmp"):
        left.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN, which JSON does not have, as null."""
    text = json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
