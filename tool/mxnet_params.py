"""Reading of MXNet's ``.params`` files, a binary list of named arrays, without MXNet.

All numbers are little-endian. A file is

    uint64 0x112, uint64 0                     what it is, and a reserved word
    uint64 N, then N arrays
    uint64 N, then N names                     each: uint64 length, that many bytes of UTF-8

and an array is a shape, a device (int32 type, int32 number; of no interest), an int32 element type,
and the elements. There are four versions of the shape:

    uint32 ndim, uint32 sides                              the oldest
    uint32 0xF993FAC8, uint32 ndim, int64 sides            version 1
    uint32 0xF993FAC9, int32 0, int32 ndim, int64 sides    version 2; 0 says that it is dense
    uint32 0xF993FACA, int32 0, int32 ndim, int64 sides    version 3; ndim may be 0, a scalar

Nothing in a file is executed. No size that a file announces is believed before it has been compared
with the bytes that are left, so a damaged file costs no memory.
"""

import math
import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tool.errors import InputError
from tool.files import check_readable

LIST_MAGIC = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 0  # storage type; 1 and 2 are sparse
ELEMENT_TYPES = dict(enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?")))
LARGEST_NDIM = 8
SMALLEST_ARRAY = 21  # bytes: ndim 1, one side, device, element type, one element of a byte
SMALLEST_NAME = 9  # bytes: the length, one character
LARGEST_COUNT = 1 << 16  # arrays; keeps a file of crumbs from becoming a heap of Python objects


class _Reader:
    """A file that says what is wrong with it."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.left = path.stat().st_size  # bytes that have not been read

    def wrong(self, what: str) -> InputError:
        return InputError(
            f"{self.path} is not a whole MXNet parameter file: {what}. Download it again."
        )

    def claim(self, size: int, what: str) -> None:
        """Take ``size`` bytes off those that are left, before reading them."""
        if size > self.left:
            raise self.wrong(f"{what} needs {size} bytes and {self.left} are left")
        self.left -= size

    def unpack(self, form: str, what: str) -> tuple[int, ...]:
        form = f"<{form}"
        self.claim(struct.calcsize(form), what)
        return struct.unpack(form, self.file.read(struct.calcsize(form)))

    def number(self, form: str, what: str) -> int:
        return self.unpack(form, what)[0]

    def count(self, smallest: int, what: str) -> int:
        """Read how many things follow, each of at least ``smallest`` bytes."""
        count = self.number("Q", what)
        if count > LARGEST_COUNT or count * smallest > self.left:
            raise self.wrong(f"{what} {count} cannot be with {self.left} bytes left")
        return count

    def shape(self, what: str) -> tuple[int, ...]:
        magic = self.number("I", what)
        if magic == VERSION_1:
            ndim, side = self.number("I", what), "q"
        elif magic in (VERSION_2, VERSION_3):
            if self.number("i", what) != DENSE:
                raise self.wrong(f"{what} is sparse, which no network here is")
            ndim, side = self.number("i", what), "q"
        else:
            ndim, side = magic, "I"
        scalar = ndim == 0 and magic == VERSION_3
        if not scalar and not 1 <= ndim <= LARGEST_NDIM:
            raise self.wrong(f"{what} announces {ndim} dimensions")
        shape = self.unpack(f"{ndim}{side}", what)
        if any(length < 1 for length in shape):
            raise self.wrong(f"{what} announces the shape {shape}")
        return shape

    def array(self, what: str) -> np.ndarray:
        shape = self.shape(what)
        self.unpack("ii", what)  # the device that it was saved from
        code = self.number("i", what)
        if code not in ELEMENT_TYPES:
            raise self.wrong(f"{what} has the unknown element type {code}")
        dtype = np.dtype(ELEMENT_TYPES[code])
        count = math.prod(shape)  # in Python's integers, which do not overflow
        self.claim(count * dtype.itemsize, f"{what} of shape {shape}")
        return np.fromfile(self.file, dtype, count).reshape(shape)

    def name(self, what: str) -> str:
        length = self.number("Q", what)
        self.claim(length, what)
        try:
            return self.file.read(length).decode()
        except UnicodeDecodeError as error:
            raise self.wrong(f"{what} is not text") from error


def is_params(path: str | Path) -> bool:
    """Return whether a file can be read and begins like an MXNet list."""
    with suppress(InputError):
        return check_readable(path, "").startswith(struct.pack("<Q", LIST_MAGIC))
    return False


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Return the named arrays of an MXNet file, usually ``*.params``.

    They are in the order of the file, of the shapes and dtypes in it. MXNet puts ``arg:`` before
    the names of weights and ``aux:`` before those of running statistics. A file that is missing,
    cut off, or something else raises an InputError.
    """
    path = Path(path)
    check_readable(path, f"There is no file {path}. Download it, or give another path.")
    with open(path, "rb") as file:
        reader = _Reader(file, path)
        if reader.unpack("QQ", "the header") != (LIST_MAGIC, 0):
            raise reader.wrong("it begins differently")
        count = reader.count(SMALLEST_ARRAY, "the number of arrays")
        arrays = [reader.array(f"array {i + 1} of {count}") for i in range(count)]
        named = reader.count(SMALLEST_NAME, "the number of names")
        if named != count:
            raise reader.wrong(f"{count} arrays have {named} names")
        names = [reader.name(f"name {i + 1} of {count}") for i in range(count)]
        if reader.left:
            raise reader.wrong(f"{reader.left} bytes follow its end")
    content = dict(zip(names, arrays, strict=True))
    if len(content) != count:
        raise reader.wrong(f"{count} arrays have {len(content)} different names")
    return content
