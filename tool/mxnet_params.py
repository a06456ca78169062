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
    uint32 0xF993FACA, int32 0, int32 ndim, int64 sides    version 3

Nothing in a file is executed. No size that a file announces costs memory before it has been
compared with the bytes that are left.
"""

import io
import math
from typing import BinaryIO

import numpy as np

from tool.reader import Damaged

BEGINNING = (0x112).to_bytes(16, "little")
VERSIONS = (0xF993FAC8, 0xF993FAC9, 0xF993FACA)  # 1, 2 and 3
ELEMENT_TYPES = ("<f4", "<f8", "<f2")  # by their numbers; 3 and above are whole numbers


def _take(file: BinaryIO, dtype: str, count: int) -> np.ndarray:
    """Return the next numbers; fewer bytes than they need are a ValueError of NumPy's."""
    return np.frombuffer(file.read(np.dtype(dtype).itemsize * count), dtype, count)


def _number(file: BinaryIO, dtype: str) -> int:
    return int(_take(file, dtype, 1)[0])


def _array(file: BinaryIO) -> np.ndarray:
    ndim, side = _number(file, "<u4"), "<u4"
    if ndim in VERSIONS:
        if ndim != VERSIONS[0] and _number(file, "<u4"):
            raise Damaged("a sparse array")
        ndim, side = _number(file, "<u4"), "<u8"
    shape = _take(file, side, ndim).tolist()
    _, _, code = _take(file, "<u4", 3)  # the first two are the device that it was saved from
    if not shape or not math.prod(shape) or code >= len(ELEMENT_TYPES):
        raise Damaged(f"an array of shape {shape} and element type {code}")
    return _take(file, ELEMENT_TYPES[code], math.prod(shape)).reshape(shape).copy()


def unpack(packed: bytes) -> dict[str, np.ndarray]:
    """Return the named arrays in the bytes of an MXNet file, which begin with BEGINNING.

    They are in the order of the file, of the shapes and dtypes in it, float16 to float64. MXNet
    puts ``arg:`` before the names of weights and ``aux:`` before those of running statistics. Bytes
    that are cut off, or something else, raise a ValueError.
    """
    file = io.BytesIO(packed)
    file.seek(len(BEGINNING))
    arrays = [_array(file) for _ in range(_number(file, "<u8"))]
    names = [
        _take(file, "u1", _number(file, "<u8")).tobytes().decode()
        for _ in range(_number(file, "<u8"))
    ]
    named = dict(zip(names, arrays, strict=True))
    if len(named) != len(arrays) or file.read(1):
        raise Damaged("names twice, or bytes behind the last of them")
    return named
