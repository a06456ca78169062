"""Localization maps on disk: whole, of known layout, and never executed."""

import io
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from make_cam import infer, parse_arguments, settle_layout, stored
from net.resnet50_SIPE import CAM
from tool.errors import InputError
from tool.maps import FORMATS, fuse, maps_path, pack, read_maps, write_maps
from tool.pictures import reduced_size

RNG = np.random.default_rng(0)


def maps_of(dtype=np.float32, with_cam: bool = True) -> dict[str, np.ndarray]:
    maps = {"keys": np.array([0, 3, 17]), "IS_CAM": RNG.random((3, 5, 6)).astype(dtype)}
    return {**maps, "CAM": RNG.random((2, 5, 6)).astype(dtype)} if with_cam else maps


def scales_of(classes: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    sizes = ((5, 6), (3, 3), (8, 9), (10, 12))
    return [torch.rand(classes, *size, generator=rng) for size in sizes]


def packed_maps(with_cam: bool = True) -> dict[str, np.ndarray]:
    """Maps of four scales, as they are stored."""
    both, shapes = pack(scales_of(5))
    maps = {"keys": np.array([0, 3, 17]), "IS_CAM": both[:3], "CAM": both[3:], "shapes": shapes}
    maps["size"] = np.array([80, 93])
    return maps if with_cam else {name: maps[name] for name in maps if name != "CAM"}


def assert_same(maps: dict, expected: dict) -> None:
    assert set(maps) == set(expected)
    for name, value in expected.items():
        assert maps[name].dtype == value.dtype
        np.testing.assert_array_equal(maps[name], value)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was executed')",))


@pytest.mark.parametrize("with_cam", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("save_format", FORMATS)
def test_roundtrip_keeps_every_bit(tmp_path, save_format, dtype, with_cam):
    maps = maps_of(dtype, with_cam)
    path = maps_path(tmp_path / "npy", "2007.a b", save_format)
    assert path == tmp_path / "npy" / f"2007.a b.{save_format}"
    write_maps(path, maps)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert_same(read_maps(path.parent, "2007.a b", save_format == "npy"), maps)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("save_format", FORMATS)
def test_smaller_maps_get_the_size_of_the_picture(tmp_path, save_format, dtype):
    """Bilinear between the centres of cells, as the maps of every scale are resized."""
    row = np.array([0, 1], dtype)
    maps = {"keys": np.array([0, 3]), "IS_CAM": np.stack([row, 1 - row])[:, None]}
    maps["CAM"] = maps["IS_CAM"][1:] / 2
    write_maps(maps_path(tmp_path, "a", save_format), {**maps, "size": np.array([3, 4])})
    up = np.repeat([[0, 0.25, 0.75, 1]], 3, axis=0).astype(np.float32)
    expected = {"IS_CAM": np.stack([up, 1 - up]), "CAM": (1 - up)[None] / 2}
    assert_same(read_maps(tmp_path, "a", save_format == "npy"), {**maps, **expected})


def test_smaller_maps_are_those_of_torch(tmp_path):
    maps = maps_of(np.float16)
    write_maps(maps_path(tmp_path, "a"), {**maps, "size": np.array([11, 9])})
    read = read_maps(tmp_path, "a")
    for name in ("IS_CAM", "CAM"):
        small = torch.from_numpy(maps[name].astype(np.float32))[None]
        expected = F.interpolate(small, (11, 9), mode="bilinear", align_corners=False)[0]
        np.testing.assert_allclose(read[name], expected.numpy(), atol=1e-6)
        assert read[name].max() <= maps[name].max()


def test_size_that_is_the_maps_own_changes_no_value(tmp_path):
    maps = maps_of(np.float16)
    write_maps(maps_path(tmp_path, "a"), {**maps, "size": np.array([5, 6])})
    whole = {name: maps[name].astype(np.float32) for name in ("IS_CAM", "CAM")}
    assert_same(read_maps(tmp_path, "a"), {**maps, **whole})


# ------------------------------------------------------------------------- maps of all scales


@pytest.mark.parametrize("with_cam", [True, False])
def test_maps_of_scales_are_fused_when_read(tmp_path, with_cam):
    """Against the formula in float64; places are computed in float32."""
    write_maps(maps_path(tmp_path, "a"), packed_maps(with_cam))
    read = read_maps(tmp_path, "a")
    total = sum(
        F.interpolate(m[None].double(), (80, 93), mode="bilinear", align_corners=False)[0]
        for m in scales_of(5)
    )
    expected = (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()
    assert sorted(read) == ["CAM", "IS_CAM", "keys"][not with_cam :]
    assert read["IS_CAM"].dtype == np.float32
    np.testing.assert_allclose(read["IS_CAM"], expected[:3], atol=5e-6)
    if with_cam:
        np.testing.assert_allclose(read["CAM"], expected[3:], atol=5e-6)


@pytest.mark.parametrize("together", [False, True])
def test_every_layout_holds_what_the_network_gives(tmp_path, together):
    """Also of several pictures at once; the rounded and the smaller one only roughly."""
    torch.manual_seed(0)
    net = CAM(5, pretrained=None, width=4, competitors="present").eval()
    labels = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 1, 0, 0]])[: 1 + together]
    pictures = [
        torch.randint(0, 256, (len(labels), 3, *size), dtype=torch.uint8)
        for size in ((80, 93), (40, 46), (120, 140))
    ]
    with torch.inference_mode():
        of_scales = infer(net, pictures, labels)
    layouts = {
        "scales": ([], 1e-6),
        "full": (["--save_layout", "full"], 1e-6),
        "half": (["--save_dtype", "float16"], 1e-3),
        "small": (["--save_scale", "0.5"], 0.2),
    }
    for maps, label in zip(of_scales, labels, strict=True):
        keys = label.nonzero()[:, 0].numpy()
        expected = fuse(maps, (80, 93)).numpy()
        assert expected.max() > 0.9
        for name, (flags, atol) in layouts.items():
            args = parse_arguments([*flags, "--save_cam"])
            settle_layout(args, tmp_path)
            write_maps(maps_path(tmp_path, name), stored(maps, keys, (80, 93), args))
            read = read_maps(tmp_path, name)
            assert read["keys"].tolist() == keys.tolist()
            np.testing.assert_allclose(read["IS_CAM"], expected[: len(keys)], atol=atol)
            np.testing.assert_allclose(read["CAM"], expected[len(keys) :], atol=atol)
    sizes = {name: (tmp_path / f"{name}.npz").stat().st_size for name in layouts}
    assert sizes["scales"] < sizes["small"] < sizes["half"] < sizes["full"]


@pytest.mark.parametrize("maps", [maps_of(), packed_maps()])
def test_maps_of_a_large_picture_are_read_at_the_reduced_size(tmp_path, maps):
    write_maps(maps_path(tmp_path, "a"), {**maps, "size": np.array([80, 93])})
    whole, reduced = read_maps(tmp_path, "a"), read_maps(tmp_path, "a", max_pixels=2000)
    assert reduced_size((80, 93), 2000) == reduced["IS_CAM"].shape[1:] == (41, 48)
    for name in ("IS_CAM", "CAM"):
        near = F.interpolate(torch.from_numpy(whole[name])[None], (41, 48), mode="bilinear")[0]
        np.testing.assert_allclose(reduced[name], near.numpy(), atol=0.15)
    assert_same(read_maps(tmp_path, "a", max_pixels=80 * 93), whole)


def test_whole_maps_of_a_large_picture_are_read_at_the_reduced_size(tmp_path):
    maps = {"keys": np.array([0]), "IS_CAM": np.full((1, 40, 60), 0.5, np.float32)}
    write_maps(maps_path(tmp_path, "a"), maps)
    reduced = read_maps(tmp_path, "a", max_pixels=600)["IS_CAM"]
    np.testing.assert_array_equal(reduced, np.full((1, 20, 30), 0.5))


@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((375, 500), 1_000_000, (375, 500)),
        ((1000, 1000), 1_000_000, (1000, 1000)),
        ((3000, 4000), 1_000_000, (866, 1155)),
        ((1, 10_000), 100, (1, 1000)),
        ((3000, 4000), 1, (1, 1)),
        ((3000, 4000), float("inf"), (3000, 4000)),
    ],
)
def test_reduced_size(size, max_pixels, expected):
    assert reduced_size(size, max_pixels) == expected


def test_unbounded_maps_of_scales_are_divided(tmp_path):
    """Networks of one's own may give maps above 1."""
    maps = packed_maps()
    large = {**maps, "IS_CAM": maps["IS_CAM"] * 2**20, "CAM": maps["CAM"] * 2**20}
    for name, content in (("a", maps), ("b", large)):
        write_maps(maps_path(tmp_path, name), content)
    one, other = read_maps(tmp_path, "a"), read_maps(tmp_path, "b")
    np.testing.assert_allclose(other["IS_CAM"], one["IS_CAM"], atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": np.array([[5, 6], [3, 3], [8, 9]])},  # one scale too few
        {"shapes": np.array([[5, 6], [3, 3], [8, 9], [12, 11]])},
        {"shapes": np.array([[5, 6], [-3, -3], [8, 9], [10, 12]])},
        {"shapes": np.array([[5, 6], [3, 3], [8, 9], [10, 12], [0, 7]])},
        {"shapes": np.array([[1 << 32, 1 << 32]])},  # would overflow
        {"shapes": np.array([5, 6])},
        {"shapes": np.zeros((0, 2), np.int64)},
        {"shapes": np.array([[5.0, 6], [3, 3], [8, 9], [10, 12]])},
        {"IS_CAM": np.zeros((3, 5, 6), np.float32)},
        {"CAM": np.zeros((2, 230), np.float32)},
        {"CAM": np.zeros((3, 231), np.float32)},
        {"size": None},
        {"size": np.array([1 << 20, 1 << 20])},
        {"shapes": np.array([[231, 1]]), "size": np.array([1 << 23, 1])},  # would take memory
    ],
)
def test_other_layouts_of_scales_are_described(tmp_path, change):
    maps = {name: value for name, value in {**packed_maps(), **change}.items() if value is not None}
    assert packed_maps()["IS_CAM"].shape == (3, 231)
    write_maps(maps_path(tmp_path, "a"), maps)
    with pytest.raises(
        InputError, match=r"a\.npz holds .*; maps are keys int.*shapes int \(S, 2\)"
    ):
        read_maps(tmp_path, "a")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.1])
def test_values_that_are_no_maps_of_scales_are_named(tmp_path, value):
    maps = packed_maps()
    maps["CAM"][1, 200] = value
    write_maps(maps_path(tmp_path, "a"), maps)
    with pytest.raises(InputError, match=r"a\.npz: CAM has NaN or values outside"):
        read_maps(tmp_path, "a")


def test_background_alone_at_all_scales(tmp_path):
    both, shapes = pack(scales_of(1))
    maps = {"keys": np.array([0]), "IS_CAM": both, "shapes": shapes, "size": np.array([7, 9])}
    write_maps(maps_path(tmp_path, "a"), {**maps, "CAM": both[:0]})
    read = read_maps(tmp_path, "a")
    assert read["IS_CAM"].shape == (1, 7, 9)
    assert read["CAM"].shape == (0, 7, 9)


# ------------------------------------------------------------------------- damaged and foreign


def test_background_alone(tmp_path):
    maps = {"keys": np.array([0]), "IS_CAM": np.ones((1, 1, 1), np.float32)}
    maps["CAM"] = np.zeros((0, 1, 1), np.float32)
    write_maps(maps_path(tmp_path, "a"), maps)
    assert_same(read_maps(tmp_path, "a"), maps)


def test_npz_is_readable_without_pickle(tmp_path):
    maps = maps_of()
    write_maps(maps_path(tmp_path, "a"), maps)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert_same(dict(file), maps)


def test_npy_is_the_dict_of_the_published_code(tmp_path):
    maps = maps_of(with_cam=False)
    write_maps(maps_path(tmp_path, "a", "npy"), maps)
    assert_same(np.load(tmp_path / "a.npy", allow_pickle=True).item(), maps)


def test_pickle_is_refused_without_the_flag(tmp_path):
    write_maps(maps_path(tmp_path, "a", "npy"), maps_of())
    with pytest.raises(InputError, match=r"a\.npy is a pickle.*--allow_pickle"):
        read_maps(tmp_path, "a")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_code_in_a_file_is_not_executed(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=rf"{name}"):
        read_maps(tmp_path, "a")
    with open(tmp_path / name, "wb") as file:
        np.save(file, np.array(Evil(), dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=rf"{name}"):
        read_maps(tmp_path, "a")


@pytest.mark.parametrize("name", ["keys", "IS_CAM", "CAM"])
def test_code_within_an_npz_is_not_executed_even_with_the_flag(tmp_path, name):
    maps = {**maps_of(), name: np.array([Evil()], dtype=object)}
    np.savez(tmp_path / "a.npz", allow_pickle=True, **maps)
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        read_maps(tmp_path, "a", allow_pickle=True)


def test_npz_comes_before_npy(tmp_path):
    maps = maps_of()
    write_maps(maps_path(tmp_path, "a"), maps)
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Evil()))
    assert_same(read_maps(tmp_path, "a", allow_pickle=True), maps)


def test_missing_maps_name_the_program_that_makes_them(tmp_path):
    with pytest.raises(InputError, match=r"no maps .*a\.npz.*make_cam\.py"):
        read_maps(tmp_path, "a")
    with pytest.raises(InputError, match=r"no maps .*a\.npz"):
        read_maps(tmp_path / "nowhere", "a", allow_pickle=True)


@pytest.mark.parametrize("save_format", FORMATS)
def test_file_cut_off_anywhere_is_named(tmp_path, save_format):
    path = maps_path(tmp_path, "a", save_format)
    write_maps(path, maps_of())
    content = path.read_bytes()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"a\.{save_format} is (damaged|empty)"):
            read_maps(tmp_path, "a", allow_pickle=True)


@pytest.mark.parametrize("maps", [maps_of(), packed_maps()])
def test_changed_byte_of_an_npz_never_gives_other_maps(tmp_path, maps):
    path = maps_path(tmp_path, "a")
    write_maps(path, maps)
    maps = read_maps(tmp_path, "a")
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        changed = bytearray(content)
        changed[position] ^= 255
        path.write_bytes(changed)
        try:
            read = read_maps(tmp_path, "a")
        except InputError:
            refused += 1
        else:  # the byte meant nothing, as a date, or hid CAM, which may be missing
            assert_same(read, {name: maps[name] for name in read})
    assert refused > len(content) / 3 / 2


@pytest.mark.parametrize(
    "change",
    [
        {"keys": np.array([0, 3])},
        {"keys": np.array(0)},
        {"keys": np.array([0.0, 3.0, 17.0])},  # no class ids
        {"keys": np.array(["0", "3", "17"])},
        {"keys": np.zeros(0, int), "IS_CAM": np.zeros((0, 5, 6))},
        {"IS_CAM": np.zeros((5, 6), np.float32)},
        {"IS_CAM": np.zeros((3, 1, 5, 6), np.float32)},
        {"IS_CAM": np.zeros((3, 5, 6), np.uint8)},  # would be read as 0..255
        {"CAM": np.zeros((3, 5, 6), np.float32)},  # one too many
        {"CAM": np.zeros((2, 6, 5), np.float32)},
        {"size": np.array([10, 12, 3])},
        {"size": np.array(10)},
        {"size": np.array([10.0, 12.0])},
        {"size": np.array([0, 12])},
        {"size": np.array([10, -12])},
    ],
)
@pytest.mark.parametrize("save_format", FORMATS)
def test_other_layout_is_described(tmp_path, change, save_format):
    write_maps(maps_path(tmp_path, "a", save_format), {**maps_of(), **change})
    with pytest.raises(
        InputError, match=rf"a\.{save_format} holds .*keys int \(P,\) from 0 on.*size"
    ):
        read_maps(tmp_path, "a", allow_pickle=True)


@pytest.mark.parametrize("name", ["keys", "IS_CAM"])
def test_missing_part_is_named(tmp_path, name):
    maps = maps_of()
    del maps[name]
    write_maps(maps_path(tmp_path, "a"), maps)
    with pytest.raises(InputError, match=rf"a\.npz is damaged \('{name}'\)"):
        read_maps(tmp_path, "a")


@pytest.mark.parametrize("content", [[1, 2], "text", None])
def test_pickle_of_something_else_is_named(tmp_path, content):
    np.save(tmp_path / "a.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy is damaged"):
        read_maps(tmp_path, "a", allow_pickle=True)


@pytest.mark.parametrize("save_format", FORMATS)
def test_crash_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, save_format):
    path, old = maps_path(tmp_path, "a", save_format), maps_of()
    write_maps(path, old)

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)  # the moment before the new file would appear
    with pytest.raises(KeyboardInterrupt):
        write_maps(path, maps_of())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert_same(read_maps(tmp_path, "a", allow_pickle=True), old)


def test_maps_that_cannot_be_stored_leave_no_half_file(tmp_path):
    class Broken:
        def __array__(self, *args, **kwargs):
            raise RuntimeError("lost on the device")

    with pytest.raises(RuntimeError, match="lost on the device"):
        write_maps(maps_path(tmp_path, "a"), {**maps_of(), "IS_CAM": Broken()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "keys",
    [
        [1, 3, 17],  # without background
        [0, 3, 3],
        [0, 17, 3],
        [0, 3, 255],  # would be unsure
        [0, 3, 300],  # would be 44
        [0, 3, -2],  # would be 254
    ],
)
@pytest.mark.parametrize("save_format", FORMATS)
def test_keys_that_are_no_classes_are_named(tmp_path, keys, save_format):
    write_maps(maps_path(tmp_path, "a", save_format), {**maps_of(), "keys": np.array(keys)})
    numbers = ", ".join(map(str, keys))
    with pytest.raises(InputError, match=rf"a\.{save_format} has maps of the classes {numbers};"):
        read_maps(tmp_path, "a", allow_pickle=True)


def test_keys_must_be_below_the_number_of_classes(tmp_path):
    write_maps(maps_path(tmp_path, "a"), maps_of())
    assert read_maps(tmp_path, "a", num_classes=18)["keys"].tolist() == [0, 3, 17]
    with pytest.raises(InputError, match=r"0, 3, 17; .*below 17\. Check --dataset"):
        read_maps(tmp_path, "a", num_classes=17)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, ">i4"])
def test_keys_of_any_whole_numbers_become_int64(tmp_path, dtype):
    write_maps(maps_path(tmp_path, "a"), {**maps_of(), "keys": np.array([0, 3, 17], dtype)})
    keys = read_maps(tmp_path, "a")["keys"]
    assert keys.dtype == np.int64
    assert keys.tolist() == [0, 3, 17]


@pytest.mark.parametrize("name", ["IS_CAM", "CAM"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.1, 1.1, 255])
def test_values_that_are_no_maps_are_named(tmp_path, name, value):
    maps = maps_of()
    maps[name][0, 0, 0] = value
    write_maps(maps_path(tmp_path, "a"), maps)
    with pytest.raises(InputError, match=rf"a\.npz: {name} has NaN or values outside"):
        read_maps(tmp_path, "a")


def test_rounded_values_are_maps(tmp_path):
    maps = maps_of()
    maps["IS_CAM"][0, 0, :2] = (1.0005, -0.0005)
    write_maps(maps_path(tmp_path, "a"), maps)
    assert_same(read_maps(tmp_path, "a"), maps)


@pytest.mark.parametrize(
    "change",
    [
        {"CAM": np.zeros((2, 5, 6), np.int64)},
        {"CAM": np.zeros((2, 5, 6), complex)},
        {"IS_CAM": np.zeros((3, 5, 6), np.longdouble)},
        {"IS_CAM": np.zeros((3, 0, 6), np.float32), "CAM": np.zeros((2, 0, 6), np.float32)},
        {"size": np.array([1 << 40, 1 << 40])},  # would be resized to
        {"size": np.array([8, 1 << 20])},
    ],
)
@pytest.mark.parametrize("save_format", FORMATS)
def test_other_dtypes_and_sizes_are_described(tmp_path, change, save_format):
    write_maps(maps_path(tmp_path, "a", save_format), {**maps_of(), **change})
    with pytest.raises(InputError, match=rf"a\.{save_format} holds .*; maps are keys int"):
        read_maps(tmp_path, "a", allow_pickle=True)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_announced_shapes_cost_no_memory(tmp_path, compression):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 14, 1 << 10, 1 << 10)}
    )
    write_maps(maps_path(tmp_path, "a"), maps_of())
    with zipfile.ZipFile(tmp_path / "a.npz", "a", compression) as archive:
        archive.writestr("more.npy", header.getvalue() + bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"a\.npz is damaged .*announces the shape"):
            read_maps(tmp_path, "a")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_packed_maps_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **maps_of())
    assert set(read_maps(tmp_path, "a")) == {"keys", "IS_CAM", "CAM"}


def test_maps_of_irn_are_told_apart(tmp_path):
    """IRN's make_cam saves a dict of keys, which begin with 0 without a map, cam and high_res."""
    maps = {"keys": torch.tensor([3]), "cam": torch.zeros(1, 2, 3), "high_res": np.zeros((1, 5, 6))}
    np.save(tmp_path / "a.npy", maps, allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy holds keys, cam, high_res.*IRN.*make_cam\.py"):
        read_maps(tmp_path, "a", allow_pickle=True)


def test_a_forbidden_file_is_not_called_damaged(tmp_path, monkeypatch):
    write_maps(maps_path(tmp_path, "a"), maps_of())

    def forbid(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbid)
    with pytest.raises(InputError, match=r"a\.npz could not be read: Permission denied\.") as no:
        read_maps(tmp_path, "a")
    assert "Delete" not in str(no.value)


def test_a_web_page_in_the_place_of_maps(tmp_path):
    (tmp_path / "a.npz").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"a\.npz is a web page"):
        read_maps(tmp_path, "a")


def test_a_pickle_announces_no_more_parts_than_bytes(tmp_path):
    """Python makes a table of as many entries as the largest number given to a part."""
    write_maps(tmp_path / "a.npy", maps_of())
    content = (tmp_path / "a.npy").read_bytes()
    put = content.replace(b"\x8c\x04keys\x94", b"\x8c\x04keysr\x00\x00\x00\x10", 1)
    assert put != content
    (tmp_path / "a.npy").write_bytes(put)
    with pytest.raises(InputError, match=r"a\.npy is damaged \(it announces 268435456 parts\)"):
        read_maps(tmp_path, "a", allow_pickle=True)
