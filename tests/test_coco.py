"""MS COCO: a tiny one, with everything that the real one has."""

import json

import numpy as np
import pytest
from conftest import play
from PIL import Image
from pycocotools import mask as rle_codes

from data.coco import COCO, annotations
from data.coco import __main__ as preparation
from data.coco import dataset as module
from data.coco.__main__ import main
from data.coco.annotations import read_annotations
from data.coco.masks import Region, draw_mask, encode, run_lengths
from data.datasets import DATASETS
from tests.tiny import orientation_tag
from tool.errors import InputError
from tool.maps import read_maps
from tool.metrics import ConfusionMatrix
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
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def block(rows, columns, shape=(H, W)):
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


CROWD = block(slice(2, 12), slice(20, 38))
NOISE = np.random.default_rng(0).random((H, W)) < 0.4


@pytest.fixture
def content():
    """Annotations of train2014 as Python objects."""
    text = rle_codes.encode(np.asfortranarray(NOISE.astype(np.uint8)))["counts"].decode()
    return {
        "info": {"description": 'mäuse, "quoted" }]'},
        "licenses": [],
        "images": [picture(n) for n in (7, 3, 5, 9, 4)],  # 9 has no annotation
        "annotations": [
            thing(1, 3, CAT, square(10, 10, 15, 15)),  # small, and behind in the file's order
            thing(2, 5, BRUSH, {"size": [H, W], "counts": text}),
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


def test_classes_ascend_with_category_ids():
    assert len(COCO.class_names) == len(set(COCO.class_names)) == len(IDS) == 80
    by_id = dict(zip(IDS, COCO.class_names, strict=True))
    assert [by_id[i] for i in (1, 11, 13, 27, 44, 67, 70, 90)] == [
        *("person", "fire hydrant", "stop sign", "backpack", "bottle", "dining table", "toilet"),
        "toothbrush",
    ]
    assert DATASETS["coco"] is COCO


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


def test_compressed_text():
    """Of every density, and of the longest run that any picture has."""
    rng = np.random.default_rng(1)
    for share in (0, 0.001, 0.02, 0.5, 1):
        noise = rng.random((90, 70)) < share
        code = rle_codes.encode(np.asfortranarray(noise.astype(np.uint8)))
        assert run_lengths(code["counts"].decode()) == runs(noise)["counts"]
    side = annotations.SIDE.high
    code = encode(rle([0, side * side], (side, side)), side, side)
    assert run_lengths(code.decode()) == [0, side * side]


def rle(counts, size=(H, W)):
    return {"size": list(size), "counts": counts}


def test_forms_of_the_file_are_free(root, content, monkeypatch):
    """Order of lists, kind of numbers; and every value is cut somewhere by a chunk's end."""
    path = save(root, {"a": 20.14, **content, "b": 2.5e-30, "c": 2014})
    whole = read_annotations(path, "train")
    assert [len(picture.regions) for picture in whole] == [2, 2, 1, 3, 0]
    content["annotations"][0]["segmentation"] = square(10.0, 10.0, 15.0, 15.0)
    content["annotations"][3]["iscrowd"] = True
    content["annotations"][4]["iscrowd"] = None
    path.write_text(json.dumps(dict(reversed(content.items())), separators=(",", ":")))
    assert read_annotations(path, "train") == whole
    for chunk in (1, 7, 64):
        monkeypatch.setattr(annotations, "CHUNK", chunk)
        assert read_annotations(path, "train") == whole


def test_published_counts(root, monkeypatch):
    """The whole file is known by its number of pictures, and then its lists are checked."""
    monkeypatch.setitem(module.PUBLISHED_PICTURES, "train", 5)
    monkeypatch.setitem(module.PUBLISHED_COUNTS, "train", 3)
    with pytest.raises(InputError, match="published file has 3"):
        prepare(root)
    monkeypatch.setitem(module.PUBLISHED_COUNTS, "train", 4)
    assert len(prepare(root).ids("train")) == 4


def test_lists_labels_and_masks(root):
    """Masks of single objects are pycocotools'; of two objects the smaller one is on top."""
    coco = prepare(root)
    ids = [name_of(n) for n in (3, 4, 5, 7)]
    assert coco.ids("train") == coco.ids("train_sample") == ids
    assert coco.ids("val") == [name_of(42, "val")]
    present = [[(k + 1) for k in np.flatnonzero(row)] for row in coco.labels(ids)]
    assert present == [[1, 16], [17], [80], [1, 17]]
    assert coco.labels([]).shape == (0, 80)
    assert np.array_equal(mask_of(coco, 5), NOISE * 80)  # compressed
    assert np.array_equal(mask_of(coco, 4), NOISE * 17)  # uncompressed, and an empty one
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
    rle("zz"),
    rle("o" * 7 + "0"),  # a number of more bits than any picture has pixels
    rle(None),
    [[1, 2, 3, 4, 5, 6, 7]],
    [[1, 1, 1e9, 1, 5, 5]],  # pycocotools would need gigabytes
    [[1, 1, float("nan"), 1, 5, 5]],
    [["a", "b"]],
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
        (lambda c: c["annotations"][0].update(image_id=77), "annotation 1"),
        (lambda c: c["annotations"][2].pop("category_id"), "entry 3 of annotations"),
        (lambda c: c["annotations"][2].update(iscrowd=float("nan")), "is damaged"),
        (lambda c: c["annotations"].append(c["annotations"][2]), "the id 3"),
        (lambda c: c["annotations"][0].update(segmentation="zz"), "annotation 1"),
        (lambda c: c["annotations"].clear(), "no annotation"),
        (lambda c: c["categories"].pop(), "categories"),
        (lambda c: c["images"][0].update(file_name="../x.jpg"), "train2014"),
        (lambda c: c["images"].append({**picture(3), "id": 8}), "twice"),
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
    kept, gone = coco.mask_path(name_of(3)), coco.mask_path(name_of(7))
    first = gone.read_bytes()
    kept.write_bytes(b"kept")
    gone.unlink()
    prepare(root)
    assert (kept.read_bytes(), gone.read_bytes()) == (b"kept", first)
    content["annotations"][2]["category_id"] = PERSON + 1
    save(root, content)
    coco = prepare(root, "--crowd", "ignore")
    assert 2 in mask_of(coco, 3)
    assert 255 in mask_of(coco, 7)
    assert coco.labels([name_of(3)])[0, :2].tolist() == [0, 1]


def test_a_list_appears_when_its_masks_are_there(root, monkeypatch):
    def ends(coco, crowd, of):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "draw_file", ends)
    with pytest.raises(KeyboardInterrupt):
        prepare(root)
    with pytest.raises(InputError, match=r"python -m data.coco --dataset_root '.*14&15'"):
        COCO(root).ids("train")


def test_processes_draw_what_one_draws(root, tmp_path):
    one = prepare(root)
    main(["--dataset_root", str(root), "--link_root", str(tmp_path / "two"), "--num_workers", "2"])
    two = COCO(tmp_path / "two")
    assert (tmp_path / "two/images").is_symlink()
    for image_id in one.ids("train"):
        assert one.mask_path(image_id).read_bytes() == two.mask_path(image_id).read_bytes()


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
    Image.new("RGB", (W, H)).save(path)
    (root / "annotations/instances_val2014.json").unlink()
    with pytest.raises(InputError, match=r"instances_val2014\.json.*--splits"):
        prepare(root)
    assert len(prepare(root, "--splits", "train").ids("train")) == 4


def test_whole_pipeline(root, content, weights, tmp_path, command_lines):
    """run_coco.sh on all that the tiny COCO has."""
    ids = [name_of(n) for n in (3, 4, 5, 7)]
    rng = np.random.default_rng(0)
    for image_id in ids:
        noise = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/train2014/{image_id}.jpg")
    session, links = tmp_path / "run", tmp_path / "links"
    small = "--crop_size 64 --resize_min 40 --resize_max 80 --batch_size 2 --max_epochs 1"
    settings = {
        **{"COCO_ROOT": str(root), "LINK_ROOT": str(links), "NUM_WORKERS": "0", "DEVICE": "cpu"},
        "TRAIN_FLAGS": f"--pretrained {weights} {small} --val_freq 1",
        "CAM2IR_FLAGS": "--crf_iterations 1",
        "IRN_FLAGS": f"--pretrained {weights} --irn_crop_size 80 --irn_batch_size 2",
        "LABEL_FLAGS": "--irn_crop_size 80",
        "SEG_FLAGS": "--initial none --width 4 --blocks 1 1 1 1 --batch_size 2 --accumulate 1 "
        "--crop_size 33 --iterations 2",
        "INFER_FLAGS": "--crf_iterations 1",
    }
    play(command_lines("run_coco.sh", REFINE="irn", **settings)[1])
    coco = COCO(links)
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "images"]
    matrices = {name: ConfusionMatrix(81) for name in ("cam", "pseudo_label")}
    for image_id in ids:
        maps = read_maps(session / "npy", image_id)
        keys = [0, *(np.flatnonzero(coco.labels([image_id])[0]) + 1)]
        assert maps["keys"].tolist() == keys
        found = {"cam": maps["keys"][maps["IS_CAM"].argmax(0)]}
        found["pseudo_label"] = read_mask(session / "pseudo_label" / f"{image_id}.png")
        assert set(np.unique(found["pseudo_label"])) <= {*keys}
        for name, matrix in matrices.items():
            matrix.update(read_mask(coco.mask_path(image_id)), found[name])
    for name, matrix in matrices.items():
        result = json.loads((session / f"eval_{name}.json").read_text())
        assert result["miou"] == pytest.approx(matrix.miou())
        assert (result["images"], result["list"], len(result["iou"])) == (4, "train", 81)
