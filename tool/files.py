"""Files appear whole or not at all, and under names that stay in their folder."""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tool.errors import InputError

# Beginnings of what is often found in the place of a file, and what to do about it.
STAND_INS = {
    b"version https://git-lfs.github.com": "a git-LFS pointer, which stands for a file of that "
    "name. Run git lfs pull, or download the file itself",
    b"\x1f\x8b": "packed by gzip. Unpack it",
}
WEB_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")
BEGINNING = 512  # bytes that tell what a file is
TAR = (257, b"ustar")  # where a tar archive says what it is
LONGEST_NAME = 100  # bytes of a name that is made of a text


def write_atomic(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Call ``write(file)`` on a temporary neighbour of ``path``, then rename it to ``path``.

    A killed process leaves the old file, or none, and never half of one. Folders are made. A full
    disk, or a folder that cannot be written, raises an InputError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                write(file)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file of these lines, atomically."""
    write_atomic(path, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what keeps ``path`` from being written into an InputError that names it.

    That may be a full disk, a folder that cannot be written, or a name that is not UTF-8 where a
    library takes no other.
    """
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} could not be written: {reason}.") from error


def digest_of(*parts: bytes) -> str:
    """Return the SHA-256 of some bytes, as text that says what it is."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"sha256:{digest.hexdigest()}"


def check_readable(path: str | Path, missing: str) -> bytes:
    """Return the first bytes of a file that can be read and is no stand-in for another.

    Raises:
        InputError: the path is a folder, empty, not allowed to be read, a web page, a git-LFS
            pointer, or an archive to be unpacked; or there is no file, for which ``missing`` is the
            message.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder. Give a file in it.")
    if not os.path.isfile(path):
        raise InputError(missing)
    try:
        with open(path, "rb") as file:
            head = file.read(BEGINNING)
    except OSError as error:
        raise InputError(
            f"{path} could not be read: {error.strerror or error}. Mend that, or give another path."
        ) from error
    if not head:
        raise InputError(f"{path} is empty. Copy, download or make it again.")
    check_beginning(path, head)
    return head


def check_beginning(path: str | Path, head: bytes) -> None:
    """Raise an InputError where the first bytes of a file tell that it stands for another."""
    for beginning, what in STAND_INS.items():
        if head.startswith(beginning):
            raise InputError(f"{path} is {what}.")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(WEB_PAGE):
        raise InputError(f"{path} is a web page. Download the file itself again.")
    if head[TAR[0] :].startswith(TAR[1]):
        raise InputError(f"{path} is a tar archive. Unpack it, and give the file inside.")


def claim(path: str | Path) -> BinaryIO:
    """Return an open file that belongs to this process until it is closed or the process ends.

    The lock is the operating system's, so a killed process leaves none. A BlockingIOError says that
    another process has claimed the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "ab")  # noqa: SIM115  # it stays open
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


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


def read_json(path: str | Path, mend: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    A file that cannot be read or holds something else raises an InputError; ``mend`` is a sentence
    on what to do about it.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path} is no file that can be read. {mend}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}). {mend}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a JSON object. {mend}")
    return content


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
