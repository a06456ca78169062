"""MXNet's parameter files: what is read, and how broken and hostile ones are refused."""

import struct
import tracemalloc

import numpy as np
import pytest

from tests.mxnet import MAGIC, packed, packed_array, write_params
from tool.errors import InputError
from tool.mxnet_params import is_params, load

ARRAYS = {
    "arg:conv_weight": np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5),
    "arg:half_weight": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
    "aux:bn_moving_mean": np.array([0.5, -2, 7], np.float32),
    "arg:double": np.array([[1 / 3]]),
    "arg:bytes": np.array([0, 255], np.uint8),
    "arg:whole": np.array([-5], np.int64),
    "arg:größe": np.array([-5, 5], np.int8),
}


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_arrays_come_back(tmp_path, version):
    path = tmp_path / "net.params"
    write_params(path, ARRAYS, version)
    assert is_params(path)
    read = load(path)
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)


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


def test_scalars_exist_in_version_3_only(tmp_path):
    path = tmp_path / "scalar.params"
    write_params(path, {"x": np.float32(3).reshape(())}, version=3)
    assert load(path)["x"].shape == ()
    for version in (0, 1, 2):
        write_params(path, {"x": np.float32(3).reshape(())}, version)
        with pytest.raises(InputError, match="0 dimensions"):
            load(path)


@pytest.mark.parametrize("version", [0, 2])
def test_cut_off_anywhere(tmp_path, version):
    path = tmp_path / "cut.params"
    write_params(path, {"a": np.ones((2, 2), np.float32), "b": np.ones(1, np.float16)}, version)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.params"):
            load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="1 bytes follow"):
        load(path)


def announce(ndim: int, *sides: int, code: int = 0) -> bytes:
    head = struct.pack("<Iii", MAGIC[2], 0, ndim)
    return head + struct.pack(f"<{len(sides)}q", *sides) + struct.pack("<iii", 1, 0, code)


HOSTILE = {
    "count": (struct.pack("<QQQ", 0x112, 0, 1 << 60), "number of arrays"),
    "many": (struct.pack("<QQQ", 0x112, 0, 1 << 20) + bytes(1 << 25), "number of arrays"),
    "elements": (packed([announce(1, 1 << 40)], ["a"]), "needs 4398046511104 bytes"),
    "overflow": (packed([announce(2, 1 << 32, 1 << 32)], ["a"]), "needs"),
    "negative": (packed([announce(2, -1, -4)], ["a"]), "shape"),
    "empty": (packed([announce(2, 0, 1 << 62)], ["a"]), "shape"),
    "ndim": (packed([struct.pack("<I", 0x7FFFFFFF) + bytes(40)], ["a"]), "2147483647 dimensions"),
    "minus": (packed([announce(-1) + bytes(40)], ["a"]), "-1 dimensions"),
    "type": (packed([announce(1, 1, code=77) + bytes(4)], ["a"]), "element type 77"),
    "sparse": (packed([struct.pack("<Ii", MAGIC[2], 1) + bytes(40)], ["a"]), "sparse"),
    "magic": (struct.pack("<QQQ", 0x113, 0, 0) + bytes(8), "begins differently"),
    "fewer names": (packed([packed_array(np.ones(3), 0)] * 2, ["a"]), "2 arrays have 1 names"),
    "same name": (packed([packed_array(np.ones(3), 0)] * 2, ["a", "a"]), "1 different names"),
    "name": (packed([packed_array(np.ones(3), 0)], ["a"])[:-9] + b"\xff" * 9, "name 1 of 1"),
    "text": (packed([packed_array(np.ones(3), 0)], ["a"])[:-1] + b"\xff", "is not text"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_cost_no_memory(tmp_path, kind):
    path = tmp_path / "hostile.params"
    path.write_bytes(HOSTILE[kind][0])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=HOSTILE[kind][1]) as error:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "hostile.params" in str(error.value)
    assert peak < 1 << 20


def test_missing_and_foreign_files(tmp_path):
    path = tmp_path / "net.params"
    assert not is_params(path)
    with pytest.raises(InputError, match=r"no file .*net\.params"):
        load(path)
    path.write_bytes(b"PK\3\4 a zip file, as torch writes it")
    assert not is_params(path)
    with pytest.raises(InputError, match="begins differently"):
        load(path)
