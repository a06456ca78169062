"""MXNet's parameter files: what is read, and that broken and hostile ones are refused."""

import struct
import tracemalloc

import numpy as np
import pytest

from tests.mxnet import MAGIC, packed, packed_array, write_params
from tool.checkpoint import load
from tool.errors import InputError
from tool.mxnet_params import BEGINNING

ARRAYS = {
    "arg:conv_weight": np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5),
    "arg:half_weight": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
    "aux:bn_moving_mean": np.array([0.5, -2, 7], np.float32),
    "arg:größe": np.array([[1 / 3]]),
}
ONE = packed_array(np.ones(3), 0)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_arrays_come_back(tmp_path, version):
    path = tmp_path / "net.params"
    write_params(path, ARRAYS, version)
    read = load(path)
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].numpy().dtype == array.dtype
        assert np.array_equal(read[name].numpy(), array)


def test_bytes_of_a_file_by_hand(tmp_path):
    path = tmp_path / "one.params"
    path.write_bytes(
        bytes.fromhex(
            "1201000000000000 0000000000000000 0100000000000000"  # list, reserved, one array
            "01000000 02000000"  # one dimension of two
            "01000000 00000000 00000000"  # on the CPU, float32
            "0000803f 000000c0"  # 1, -2
            "0100000000000000 0100000000000000 77"  # one name: w
        )
    )
    assert {name: array.tolist() for name, array in load(path).items()} == {"w": [1.0, -2.0]}


@pytest.mark.parametrize("version", [0, 2])
def test_cut_off_anywhere(tmp_path, version):
    path = tmp_path / "cut.params"
    write_params(path, {"a": np.ones((2, 2), np.float32), "b": np.ones(1, np.float16)}, version)
    whole = path.read_bytes()
    for content in (*(whole[:length] for length in range(len(whole))), whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cut\.params"):
            load(path)


def announce(ndim: int, *sides: int, code: int = 0) -> bytes:
    head = struct.pack("<Iii", MAGIC[2], 0, ndim)
    return head + struct.pack(f"<{len(sides)}q", *sides) + struct.pack("<iii", 1, 0, code)


HOSTILE = {
    "count": BEGINNING + struct.pack("<Q", 1 << 60),
    "elements": packed([announce(1, 1 << 40)], ["a"]),
    "overflow": packed([announce(2, 1 << 32, 1 << 32)], ["a"]),
    "negative": packed([announce(2, -1, -4)], ["a"]),
    "ndim": packed([struct.pack("<I", 0x7FFFFFFF) + bytes(40)], ["a"]),
    "type": packed([announce(1, 1, code=77) + bytes(4)], ["a"]),
    "sparse": packed([struct.pack("<Ii", MAGIC[2], 1) + bytes(40)], ["a"]),
    "fewer names": packed([ONE] * 2, ["a"]),
    "same name": packed([ONE] * 2, ["a", "a"]),
    "text": packed([ONE], ["a"])[:-1] + b"\xff",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_cost_no_memory(tmp_path, kind):
    path = tmp_path / "hostile.params"
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"hostile\.params"):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
