"""Localization maps on disk: whole, of one layout, and never executed."""

import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data import inference
from data.inference import WEIGHTS
from make_cam import localize
from make_cam import write as write_localized
from net.resnet50_SIPE import CAM
from tool import reader
from tool.errors import InputError
from tool.maps import fuse, maps_file, read_maps, write_maps
from tool.pictures import reduced_size

KEYS, SIZE = np.array([0, 3, 17]), (80, 93)
SHAPES = [[5, 6], [3, 3], [8, 9], [10, 12]]


def scales_of(maps: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.rand(maps, *shape, generator=rng) for shape in SHAPES]


def write(folder, name="a", ending="npz", with_cam=True) -> None:
    write_maps(folder / f"{name}.{ending}", KEYS, scales_of(5), SIZE, with_cam)


def stored(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "a.npz") as file:
        return dict(file)


@pytest.mark.parametrize("with_cam", [True, False])
def test_what_is_stored_and_what_is_read(tmp_path, with_cam):
    """The fused maps against the formula in float64; places are computed in float32."""
    write(tmp_path, with_cam=with_cam)
    file, read = stored(tmp_path), read_maps(tmp_path, "a")
    flat = np.concatenate([one.flatten(1).numpy() for one in scales_of(5)], 1)
    assert np.array_equal(file["IS_CAM"], flat[:3])
    assert (file["shapes"].tolist(), file["size"].tolist()) == (SHAPES, list(SIZE))
    assert ("CAM" in file) == ("CAM" in read) == with_cam
    both = np.concatenate([read[name] for name in ("IS_CAM", "CAM") if name in read])
    total = sum(
        F.interpolate(m[None].double(), SIZE, mode="bilinear", align_corners=False)[0]
        for m in scales_of(5)
    )
    expected = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    np.testing.assert_allclose(both, expected.numpy()[: len(both)], atol=5e-6)
    assert (both.dtype, read["keys"].tolist()) == (np.float32, KEYS.tolist())


def test_the_published_file_holds_the_fused_maps(tmp_path):
    write(tmp_path, "a", "npy")
    content = np.load(tmp_path / "a.npy", allow_pickle=True).item()
    write(tmp_path)
    expected = read_maps(tmp_path, "a")
    (tmp_path / "a.npz").unlink()
    read = read_maps(tmp_path, "a", allow_pickle=True)
    for maps in (content, read):
        assert sorted(maps) == ["CAM", "IS_CAM", "keys"]
        assert all(np.array_equal(maps[name], expected[name]) for name in expected)


@pytest.mark.parametrize("together", [False, True])
def test_maps_are_those_of_the_network(tmp_path, together):
    """Of one and of several pictures at once, of the classes of each: no neighbour's map."""
    torch.manual_seed(0)
    net = CAM(5, pretrained=None, width=4).eval()
    net.competitors = "present"
    labels = np.array([[1, 1, 0, 0, 1], [1, 0, 1, 0, 0]], np.uint8)[: 1 + together]
    rng, sizes = np.random.default_rng(0), ((80, 93), (40, 46))
    items = [
        {"present": one, "pictures": [rng.integers(0, 256, (3, *s), np.uint8) for s in sizes]}
        for one in labels
    ]
    items = [{**item, "id": str(i), "size": SIZE} for i, item in enumerate(items)]
    with torch.inference_mode():
        results = localize(inference.infer, net, True, "off", items)
    for item, result in zip(items, results, strict=True):
        keys = item["present"].nonzero()[0].tolist()
        of_scales = []
        for picture in item["pictures"]:
            img = net.prepare(torch.from_numpy(picture)[None])
            label = torch.zeros(5, 1, 1)
            label[keys] = 1
            with torch.inference_mode():
                cam, is_cam = net(torch.cat([img, img.flip(3)]), label)
            of_scales.append(torch.cat([is_cam[keys], cam[keys[1:]]]))
        write_localized(tmp_path / f"{item['id']}.npz", *result)
        read, expected = read_maps(tmp_path, item["id"]), fuse(of_scales, SIZE).numpy()
        assert read["keys"].tolist() == keys
        np.testing.assert_allclose(read["IS_CAM"], expected[: len(keys)], atol=1e-5)
        np.testing.assert_allclose(read["CAM"], expected[len(keys) :], atol=1e-5)


class Bright:
    """A stand-in of a network whose one class is where a picture is white."""

    def prepare(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures / 255

    def localize(self, pairs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        white = pairs[::2, :1]
        maps = torch.cat([1 - white, white], 1) * labels
        return maps, maps


def test_objects_choose_the_scale_at_which_they_have_the_area_of_the_picture():
    scales, labels = (1.25, 1.5, 2.0, 2.5), np.ones((6, 2), np.uint8)
    whites = [0, 3, 12, 20, 30, 50]  # columns of 50
    pictures = [torch.zeros(6, 3, int(8 * scale), int(50 * scale)) for scale in scales]
    for picture, scale in zip(pictures, scales, strict=True):
        for one, columns in zip(picture, whites, strict=True):
            one[..., : int(columns * scale)] = 255
    for kept, columns in zip(
        inference.infer_fitting(scales, Bright(), pictures, labels), whites, strict=True
    ):
        share = max(columns, 0.1) / 50
        fits = min(scales, key=lambda scale: abs(math.log(scale / math.sqrt(1 / share))))
        (maps,) = kept
        assert maps.shape == (3, int(8 * fits), int(50 * fits))
        assert maps[1].mean() == pytest.approx(columns / 50, abs=0.02)


def shares_won(net, items, weights):
    """The mean share that a class wins where it is not, by the maps of one weight after another."""
    rows = []
    for number, item in enumerate(items):
        absent = [key for key in range(1, 5) if not item["present"][key]]
        key, label = absent[number % len(absent)], torch.zeros(1, 5, 1, 1)
        label[0, [key, *item["present"].nonzero()[0]]] = 1
        img = net.prepare(torch.from_numpy(item["pictures"][0])[None]).double()
        row = []
        for net.background_weight in weights:
            maps = net.localize(torch.cat([img, img.flip(3)]), label)[1][0]
            best = (maps / (maps.amax((1, 2), keepdim=True) + 1e-5)).argmax(0)
            row.append(float((best == key).double().mean()))
        rows.append(row)
    return np.mean(rows, 0)


def test_auto_is_the_smallest_weight_at_which_absent_classes_win_few_positions(monkeypatch):
    """One class that is absent competes with background and the present ones; float64."""
    torch.manual_seed(1)
    net = CAM(5, pretrained=None, width=4).double().eval()
    rng, labels = np.random.default_rng(0), ([1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 0, 1])
    items = [
        {"present": np.array(label), "pictures": [rng.integers(0, 256, (3, 64, 80), np.uint8)]}
        for label in labels
    ]
    with torch.inference_mode():
        shares = shares_won(net, items, WEIGHTS)
    monkeypatch.setattr(net, "prepare", lambda pictures: CAM.prepare(net, pictures).double())
    found = []
    for limit in (shares.max() + 1e-6, shares.min() + 0.01, shares.min() / 2):
        monkeypatch.setattr(inference, "WRONG", limit)
        fits = [weight for weight, share in zip(WEIGHTS, shares, strict=True) if share <= limit]
        found.append(inference.find_background_weight(net, items))
        assert found[-1] == (fits or [2.0])[0]
    assert found[0] < found[1]


def test_maps_of_a_large_picture_are_read_at_the_reduced_size(tmp_path):
    write(tmp_path)
    whole, reduced = read_maps(tmp_path, "a"), read_maps(tmp_path, "a", max_pixels=2000)
    near = F.interpolate(torch.from_numpy(whole["IS_CAM"])[None], (41, 48), mode="bilinear")[0]
    np.testing.assert_allclose(reduced["IS_CAM"], near.numpy(), atol=0.15)


@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((1000, 1000), 1_000_000, (1000, 1000)),
        ((3000, 4000), 1_000_000, (866, 1155)),
        ((1, 10_000), 100, (1, 1000)),
    ],
)
def test_reduced_size(size, max_pixels, expected):
    assert reduced_size(size, max_pixels) == expected


def test_unbounded_maps_are_divided(tmp_path):
    """Networks of one's own may give maps above 1."""
    write(tmp_path)
    write_maps(tmp_path / "b.npz", KEYS, [one * 2**20 for one in scales_of(5)], SIZE)
    one, other = read_maps(tmp_path, "a"), read_maps(tmp_path, "b")
    np.testing.assert_allclose(other["IS_CAM"], one["IS_CAM"], atol=2e-5)


# ------------------------------------------------------------------------- damaged and foreign


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keys", np.array([0, 17, 3])),
        ("keys", np.array([0, 3, 255])),
        ("keys", np.array([0, 3])),
        ("keys", np.array([0.0, 3, 17])),
        ("IS_CAM", np.float32(0)),
        ("IS_CAM", np.zeros((3, 11, 21))),
        ("CAM", np.zeros((3, 231))),
        ("CAM", np.zeros((2, 230))),
        ("shapes", np.arange(3)),
        ("size", np.ones(3, int)),
        ("IS_CAM", np.zeros((3, 231), np.uint8)),  # would be read as 0..255
        ("CAM", np.full((2, 231), np.nan, np.float32)),
        ("CAM", np.full((2, 231), -0.1, np.float32)),
        ("shapes", np.array([*SHAPES[:3], [12, 11]])),
        ("shapes", np.array([[5, 6], [-3, -3], [8, 9], [10, 12]])),
        ("size", np.array([1 << 28, 1])),  # would take memory
    ],
)
def test_arrays_that_are_no_maps_are_named(tmp_path, name, value):
    write(tmp_path)
    np.savez(tmp_path / "a.npz", **{**stored(tmp_path), name: value})
    with pytest.raises(InputError, match=r"a\.npz"):
        read_maps(tmp_path, "a")


def test_classes_are_those_of_the_dataset(tmp_path):
    write(tmp_path)
    assert read_maps(tmp_path, "a", num_classes=18)["keys"].max() == 17
    with pytest.raises(InputError, match=r"a\.npz .*17.*below 17"):
        read_maps(tmp_path, "a", num_classes=17)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was executed')",))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_code_in_a_file_is_not_executed(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=name):
        read_maps(tmp_path, "a", allow_pickle=True)


def test_pickles_need_the_flag_and_come_after_npz(tmp_path):
    write(tmp_path, "b", "npy")
    for read in (maps_file, read_maps):
        with pytest.raises(InputError, match=r"b\.npy.*--allow_pickle"):
            read(tmp_path, "b")
    assert maps_file(tmp_path, "b", allow_pickle=True) == tmp_path / "b.npy"
    write(tmp_path, "b")
    assert maps_file(tmp_path, "b", allow_pickle=True) == tmp_path / "b.npz"


def test_packed_members_announce_no_more_than_a_file_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LARGEST_ARRAYS", 1 << 20)
    write(tmp_path)
    read_maps(tmp_path, "a")
    with zipfile.ZipFile(tmp_path / "a.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", bytes(1 << 20))
    with pytest.raises(InputError, match=r"a\.npz"):
        read_maps(tmp_path, "a")


@pytest.mark.parametrize("content", [np.zeros(3), {"keys": 1}])
def test_other_pickles_are_named(tmp_path, content):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_maps(tmp_path, "a", allow_pickle=True)
