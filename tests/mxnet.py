"""MXNet's parameter files, laid out as their format says."""

import struct
from pathlib import Path

import numpy as np

CODES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}


def packed_array(array: np.ndarray, version: int) -> bytes:
    """Lay out one array as the format says."""
    if version == 0:
        head = struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
    else:
        head = struct.pack("<I", MAGIC[version])
        head += struct.pack("<i", 0) if version > 1 else b""
        head += struct.pack(f"<i{array.ndim}q", array.ndim, *array.shape)
    head += struct.pack("<iii", 1, 0, CODES[str(array.dtype)])
    return head + array.tobytes()


def packed(arrays: list[bytes], names: list[str]) -> bytes:
    content = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays)
    content += struct.pack("<Q", len(names))
    for name in names:
        content += struct.pack("<Q", len(name.encode())) + name.encode()
    return content


def write_params(path: Path, arrays: dict[str, np.ndarray], version: int = 0) -> None:
    """Write named arrays as MXNet does."""
    path.write_bytes(packed([packed_array(a, version) for a in arrays.values()], list(arrays)))
