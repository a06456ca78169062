"""Where files are made: whole or not at all, under names that stay in their folder.

Nobody else's file is replaced. A folder of ours says so in ``settings.json``, see
:mod:`tool.record`; a single file is known by its digest in ``.made.json`` beside it.
"""

import csv
import errno
import io
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tool.errors import InputError
from tool.reader import file_digest, read_json, text_digest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LEDGER = ".made.json"  # {name: digests of what this project wrote under it, the latest last}
KEPT = 2  # digests of a file: a killed program leaves the one before or the latest
NOTE = "settings.json"  # in a folder of ours: which program made its files, and how
LONGEST_NAME = 100  # bytes of a name that is made of a text
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # beginnings of what spreadsheets execute
BUSY = (errno.EACCES, errno.EAGAIN)  # what a lock raises that another process holds

log = logging.getLogger(__name__)


def write_atomic(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Call ``write(file)`` on a temporary neighbour of ``path``, then rename it to ``path``.

    A killed process leaves the old file, or none, and never half of one. Folders are made. A full
    disk, or a folder that cannot be written, raises an InputError. Only files whose folder is known
    to be ours are written so; for others there is :func:`write_own`.
    """
    with drafting(Path(path)) as draft, open(draft, "wb") as file:
        write(file)


def write_own(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file as :func:`write_atomic` does, but never in the place of somebody else's.

    Raises:
        InputError: there is a file that this project did not write, or that was changed since.
    """
    path = Path(path)
    with drafting(path) as draft:
        with open(draft, "wb") as file:
            write(file)
        with held(path.parent):
            made = _check_own(path)
            made[path.name] = [*made.get(path.name, []), file_digest(draft)][-KEPT:]
            write_json(path.with_name(LEDGER), made)


def remove_own(path: Path) -> None:
    """Delete a file of :func:`write_own`, if it is there; somebody else's is an InputError."""
    _check_own(path)
    path.unlink(missing_ok=True)


def _check_own(path: Path) -> dict[str, list[str]]:
    """Return the folder's ledger, having checked that what stands at ``path`` is ours."""
    ledger = path.with_name(LEDGER)
    made = read_json(ledger, "Delete it.", {str: [str]}, {})
    if os.path.lexists(path) and file_digest(path) not in made.get(path.name, []):
        raise InputError(
            f"{path} is not what a program of this project wrote there. Move it away, or name "
            "another place."
        )
    return made


def own_in(folder: Path) -> set[str]:
    """Return which files of a folder are known, by note or ledger, to be made by this project."""
    with suppress(InputError):  # somebody else's file is called like the note or the ledger
        made = read_json(folder / LEDGER, "Delete it.", {str: [str]}, {})
        return set(os.listdir(folder) if "program" in read_note(folder) else made)
    return set()


@contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """Yield where a file or folder is to be made that becomes ``path`` at the end.

    Folders above it are made, and a draft that does not come to its end is deleted.

    Raises:
        InputError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
            os.replace(draft, path)
    finally:
        _remove(draft)


@contextmanager
def new(path: Path) -> Iterator[Path]:
    """Do as :func:`drafting` for a path at which nothing is, else raise an InputError."""
    if os.path.lexists(path):
        raise InputError(f"{path} is there already. Name another place, or move it away.")
    clear_unfinished(path.parent, path.name)
    with drafting(path) as draft:
        yield draft


def _remove(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    with suppress(OSError):
        draft.unlink()


def link(source: Path, target: Path) -> None:
    """Make a link to a file or a folder, or a copy where the file system has no links."""
    source = source.resolve()
    with drafting(target) as draft:
        try:
            draft.symlink_to(source, target_is_directory=source.is_dir())
        except OSError:
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, draft)


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


def write_lines(path: str | Path, lines: Iterable[str], write: Callable = write_atomic) -> None:
    """Write a text file of these lines by ``write``."""
    write(path, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))


def write_json(path: str | Path, value: Any, write: Callable = write_atomic) -> None:
    """Write ``value`` as indented JSON by ``write``; NaN and infinity, which it lacks, as null."""
    value = json.loads(json.dumps(value), parse_constant=lambda _: None)
    write_lines(path, [json.dumps(value, indent=2)], write)


def write_table(
    path: str | Path, rows: Iterable[Sequence[Any]], write: Callable = write_own
) -> None:
    """Write rows, the header first, as CSV by ``write``.

    Texts that a spreadsheet would execute as formulas get an apostrophe in front.
    """
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([_harmless(cell) for cell in row] for row in rows)
    content = buffer.getvalue().encode(errors="backslashreplace")
    write(path, lambda file: file.write(content))


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell


def safe_name(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a file name for any text, such as a class name, of at most ``longest`` bytes.

    Letters, digits, space, dash, underscore, and dots but at the beginning stay; other characters
    are percent-encoded. Distinct texts have distinct names: a long name is cut off, and ends in a
    digest of the whole.
    """
    kept = re.sub(r"^\.|[^\w .-]", _percent_encoded, text)
    longest = min(longest, LONGEST_NAME)
    if len(kept.encode()) <= longest:
        return kept or "%"
    end = f"~{text_digest(text)[:16]}"
    return kept.encode()[: longest - len(end)].decode(errors="ignore") + end


def _percent_encoded(letter: re.Match) -> str:
    return "%" + letter[0].encode(errors="surrogatepass").hex("%").upper()


def own_folder(folder: str | Path, program: str) -> tuple[dict[str, Any], BinaryIO]:
    """Claim a folder that a program is to write; return what it noted there before, and the lock.

    An empty one is noted as the program's. Leftovers of killed programs are deleted.

    Raises:
        InputError: the folder holds files that the program did not make, or another process is
            writing it.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in os.listdir(folder) if not name.startswith(".")]
    if there and read_note(folder).get("program") != program:
        raise InputError(
            f"{folder} holds {len(there)} files, such as {min(there)}, and no {NOTE} that says "
            f"that {program} made them. Name an empty folder, or move the files away."
        )
    lock = claim(folder / ".lock", f"writing {folder}")
    clear_unfinished(folder)
    if not there:
        write_json(folder / NOTE, {"program": program})
    return read_note(folder), lock


def read_note(folder: str | Path) -> dict[str, Any]:
    """Return what a program noted in a folder, nothing where there is no note.

    Raises:
        InputError: the note is damaged.
    """
    path = Path(folder) / NOTE
    schema = {"program": str, "class_names?": [str]}
    remedy = "Put back the file that was there, or make the folder's files again in another one."
    return read_json(path, remedy, schema, {})


def clear_unfinished(folder: str | Path, name: str = "*") -> None:
    """Delete what processes that are no more left of :func:`drafting` in a folder."""
    if sys.platform == "win32":  # os.kill would end the process, and does not only look for it
        return
    for left in Path(folder).glob(f".{name}.*.tmp"):
        try:
            os.kill(int(left.name.split(".")[-2]), 0)
        except PermissionError:  # somebody else's process is alive
            pass
        except (OSError, OverflowError, ValueError):
            _remove(left)


def claim(path: str | Path, what: str) -> BinaryIO:
    """Return an open file that belongs to this process until it is closed or the process ends.

    The lock is the operating system's, so a killed process leaves none. Where the file system, or
    Windows, has no locks, a warning says that nothing keeps others away.

    Args:
        path: of the lock, made on demand.
        what: is being done, for the message.

    Raises:
        InputError: another process has it.
    """
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115  # it stays open
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no locks")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            file.close()
            raise InputError(
                f"Another process is {what} at this moment. Wait for it, or name another place."
            ) from error
        log.warning("%s: there are no locks here, so run one program at a time", path)
    return file


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Wait for a lock of a folder, and hold it; where there are no locks, go on."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # keeps threads of one process apart too
        yield
    finally:
        os.close(descriptor)
