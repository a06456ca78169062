"""MS COCO: a tiny one, with everything that the real one has."""

import json

import numpy as np
import pytest
from conftest import play
from PIL import Image
from pycocotools import mask as rle_codes

from data.coco import COCO
from data.coco import __main__ as preparation
from data.coco.__main__ import main
from data.coco.annotations import read_annotations
from data.coco.masks import Region, draw_mask, encode
from tests.tiny import orientation_tag
from tool.errors import InputError
from tool.metrics import confusion, miou_of
from tool.pictures import read_mask, read_rgb

# pycocotools' arrays know nothing of numpy 2's copy argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

H, W = 30, 40
# The ids of COCO's categories: 1..90 without these ten.
IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
PERSON, CAT, DOG, BRUSH = 1, 17, 18, 90  # classes 1, 16, 17 and 80


def square(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def name_of(number, split="train"):
    return f"COCO_{split}2014_{number:012d}"


def picture(number, height=H, width=W, split="train"):
    return {
        "id": number,
        "file_name": f"{name_of(number, split)}.jpg",
        "height": height,
        "width": width,
    }


def thing(number, image, category, segmentation, crowd=0):
    return {
        "segmentation": segmentation,
        "iscrowd": crowd,
        "image_id": image,
        "category_id": category,
        "id": number,
    }


def runs(mask):
    """Uncompressed run lengths of bool (h, w), column by column, beginning with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, flat.size]).tolist()}


def block(rows, columns, shape=(H, W)):
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


CROWD = block(slice(2, 12), slice(20, 38))
NOISE = np.random.default_rng(0).random((H, W)) < 0.4


@pytest.fixture
def content():
    """Annotations of train2014 as Python objects."""
    return {
        "info": {"description": 'mäuse, "quoted" }]'},
        "licenses": [],
        "images": [picture(n) for n in (7, 3, 5, 9, 4)],  # 9 has no annotation
        "annotations": [
            thing(1, 3, CAT, square(10, 10, 15, 15)),  # small, and behind in the file's order
            thing(2, 5, BRUSH, runs(NOISE)),
            thing(3, 3, PERSON, square(2, 2, 30, 25)),
            thing(4, 7, PERSON, runs(CROWD), crowd=1),
            thing(5, 7, DOG, square(22, 4, 26, 8)),
            thing(6, 7, DOG, square(1, 20, 8, 28) + square(12, 20, 18, 28)),
            thing(7, 4, DOG, runs(NOISE)),
            thing(8, 4, DOG, []),
        ],
        "categories": [{"id": i, "name": n} for i, n in zip(IDS, COCO.class_names, strict=True)],
    }


def save(root, content, split="train"):
    path = root / "annotations" / f"instances_{split}2014.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path, content):
    """The folder of a tiny MS COCO; its name would trouble a shell."""
    root = tmp_path / "ms_coco_14&15"
    save(root, content)
    one = {**content, "images": [picture(42, split="val")]}
    save(root, {**one, "annotations": [thing(1, 42, BRUSH, square(1, 1, 9, 9))]}, "val")
    for split, numbers in {"train": (7, 3, 5, 9, 4), "val": (42,)}.items():
        folder = root / "images" / f"{split}2014"
        folder.mkdir(parents=True)
        for number in numbers:
            mode = "L" if number == 3 else "RGB"  # a grey one
            Image.new(mode, (W, H)).save(folder / f"{name_of(number, split)}.jpg")
    return root


def prepare(root, *flags):
    main(["--dataset_root", str(root), "--num_workers", "0", *flags])
    return COCO(root)


def mask_of(coco, number):
    return read_mask(coco.mask_path(name_of(number)))


def test_smaller_objects_are_on_top_and_of_equal_ones_the_later():
    big = Region(1, False, encode(square(0, 0, 20, 20), H, W))
    small, equal = (Region(k, False, encode(square(k, 5, k + 4, 9), H, W)) for k in (2, 3))
    assert {draw_mask(order, H, W)[6, 4] for order in ([big, small], [small, big])} == {2}
    assert draw_mask([small, equal], H, W)[6, 4] == 3
    assert draw_mask([equal, small], H, W)[6, 4] == 2


def test_turned_picture_gets_a_turned_mask(root, content):
    """The camera's orientation tag turns pictures when they are read, but not annotations."""
    path = root / "images/train2014" / f"{name_of(3)}.jpg"
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[2:25, 2:30] = 255  # where the person is
    Image.fromarray(pixels).save(path, exif=orientation_tag(6), quality=95)
    mask = mask_of(prepare(root), 3)
    bright = np.array(read_rgb(path))[..., 0] > 128
    assert mask.shape == bright.shape == (W, H)
    assert ((mask > 0) == bright).mean() > 0.98


def rle(counts, size=(H, W)):
    return {"size": list(size), "counts": counts}


def test_lists_labels_and_masks(root):
    """Masks of single objects are pycocotools'; of two objects the smaller one is on top."""
    coco = prepare(root)
    ids = [name_of(n) for n in (3, 4, 5, 7)]
    assert coco.ids("train") == coco.ids("train_sample") == ids
    assert coco.ids("val") == [name_of(42, "val")]
    present = [[(k + 1) for k in np.flatnonzero(row)] for row in coco.labels(ids)]
    assert present == [[1, 16], [17], [80], [1, 17]]
    assert coco.labels([]).shape == (0, 80)
    assert np.array_equal(mask_of(coco, 5), NOISE * 80)
    assert np.array_equal(mask_of(coco, 4), NOISE * 17)  # and an empty one
    polygons = square(1, 20, 8, 28) + square(12, 20, 18, 28)
    expected = rle_codes.decode(rle_codes.frPyObjects(polygons, H, W)).any(2)
    assert np.array_equal(mask_of(coco, 7)[15:], expected[15:] * 17)
    assert mask_of(coco, 3)[12, 12] == 16
    assert mask_of(coco, 3)[5, 5] == 1


@pytest.mark.parametrize(("crowd", "value"), [("keep", 1), ("ignore", 255), ("drop", 0)])
def test_crowd(root, crowd, value):
    coco = prepare(root, "--crowd", crowd)
    mask = mask_of(coco, 7)
    dog = rle_codes.decode(rle_codes.frPyObjects(square(22, 4, 26, 8), H, W))[..., 0] > 0
    assert (mask[CROWD & ~dog] == value).all()
    assert (mask[dog] == 17).all()
    assert coco.labels([name_of(7)])[0, 0] == 1  # labels do not depend on it


BAD_REGIONS = [
    rle([1, 2]),  # pycocotools would leave the rest to chance
    rle([H * W + 5, -5]),
    rle([W * H], (W, H)),
    rle("o" * 7 + "0"),  # COCO's text, of which no published file has one
    rle(None),
    [[1, 2, 3, 4, 5, 6, 7]],
    [[1, 1, 1e9, 1, 5, 5]],  # pycocotools would need gigabytes
    [[1, 1, float("nan"), 1, 5, 5]],
    "text",
]


def test_regions_that_are_none():
    for segmentation in BAD_REGIONS:
        with pytest.raises(ValueError, match=r".*"):
            encode(segmentation, H, W)
    for segmentation in ([], [[1, 1, 5, 5]], [[]]):
        assert encode(segmentation, H, W) is None
    assert not draw_mask([Region(1, False, None)], H, W).any()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["annotations"][1].update(category_id=12), "annotation 2"),
        (lambda c: c["annotations"][2].pop("category_id"), "category_id of .*3"),
        (lambda c: c["images"].append(c["images"][2]), "one id"),
        (lambda c: c["annotations"][0].update(segmentation="zz"), "annotation 1"),
        (lambda c: c["annotations"].clear(), "no annotation"),
        (lambda c: c["categories"][1].update(name="x"), "80 categories"),
        (lambda c: c["images"][0].update(file_name="../x.jpg"), "train2014"),
        (lambda c: c["images"].append({**picture(3), "id": 8}), "is no picture"),
        (lambda c: c["images"][0].update(height=0), "000007.*height"),
    ],
)
def test_wrong_content(root, content, change, named):
    change(content)
    path = save(root, content)
    with pytest.raises(InputError, match=rf"train2014\.json .*{named}"):
        read_annotations(path, "train")


def test_masks_are_made_again_where_their_regions_changed(root, content):
    coco = prepare(root)
    kept = coco.mask_path(name_of(5))
    kept.write_bytes(b"kept")
    content["annotations"][2]["category_id"] = PERSON + 1
    save(root, content)
    assert 2 in mask_of(prepare(root), 3)
    assert coco.labels([name_of(3)])[0, 0] == 0
    assert kept.read_bytes() == b"kept"
    prepare(root, "--crowd", "ignore")
    assert 255 in mask_of(coco, 7)


def test_a_list_appears_when_its_masks_are_there(root, monkeypatch):
    def ends(coco, crowd, of):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "draw_file", ends)
    with pytest.raises(KeyboardInterrupt):
        prepare(root)
    with pytest.raises(InputError, match=r"python -m data.coco --dataset_root '.*14&15'"):
        COCO(root).ids("train")


def test_lists_in_published_forms(root, tmp_path):
    coco = prepare(root)
    path = tmp_path / "list.txt"
    path.write_text(f"7\n007\n{name_of(7)}\n")
    with pytest.raises(InputError, match=name_of(7)):
        coco.ids(path)
    path.write_text(f"train2014/{name_of(3)}.jpg\n{name_of(42, 'val')}\n7\n000000000005\n")
    assert coco.ids(path) == [name_of(3), name_of(42, "val"), name_of(7), name_of(5)]
    assert "val2014" in str(coco.image_path(name_of(42, "val")))
    with pytest.raises(InputError, match=name_of(9)):
        coco.labels([name_of(9)])
    (root / "images/train2014").rename(root / "train2014")
    assert COCO(root).image_path(name_of(3)) == root / "train2014" / f"{name_of(3)}.jpg"


def test_pictures_that_are_missing_or_of_another_size(root):
    path = root / "images/train2014" / f"{name_of(5)}.jpg"
    path.unlink()
    with pytest.raises(InputError, match=r"000005\.jpg.*--allow_missing"):
        prepare(root)
    coco = prepare(root, "--allow_missing")
    assert coco.ids("train") == [name_of(n) for n in (3, 4, 7)]
    Image.new("RGB", (H, W)).save(path)
    with pytest.raises(InputError, match=r"000005\.jpg is 30x40"):
        prepare(root)


def test_forms_of_the_file_are_free(root, content):
    """Order of lists, and kind of numbers."""
    path = save(root, {"a": 20.14, **content, "b": 2.5e-30})
    whole = read_annotations(path, "train")
    content["annotations"][0]["segmentation"] = square(10.0, 10.0, 15.0, 15.0)
    content["annotations"][3]["iscrowd"] = True
    content["annotations"][4]["iscrowd"] = None
    path.write_text(json.dumps(dict(reversed(content.items())), separators=(",", ":")))
    assert read_annotations(path, "train") == whole


def test_whole_pipeline(root, weights, tmp_path, command_lines):
    """run_coco.sh on all that the tiny COCO has."""
    small = "--crop_size 64 --resize_min 40 --resize_max 80 --batch_size 2 --max_epochs 1"
    settings = {
        **{"COCO_ROOT": str(root), "LINK_ROOT": str(tmp_path / "links")},
        **{"NUM_WORKERS": "0", "DEVICE": "cpu", "SEG_MODEL": "none"},
        "TRAIN_FLAGS": f"--pretrained {weights} {small} --val_freq 1",
        "LABEL_FLAGS": "--crf_iterations 1",
    }
    play(command_lines("run_coco.sh", **settings)[1])
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "images"]
    coco, counts = COCO(tmp_path / "links"), 0
    for image_id in coco.ids("train"):
        label = read_mask(tmp_path / f"run/pseudo_label/{image_id}.png")
        counts = counts + confusion(81, read_mask(coco.mask_path(image_id)), label)
    result = json.loads((tmp_path / "run/eval_pseudo_label.json").read_text())
    assert result["miou"] == pytest.approx(miou_of(counts))
    assert (result["images"], result["list"], len(result["iou"])) == (4, "train", 81)
