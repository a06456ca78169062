"""What looks wrong in maps and labels is found without masks."""

import logging
import re

import numpy as np
import pytest

import make_seg_labels
from data.coverage import Cover, Total, covers_of, remarks, shown_in, totals
from data.folder import Folder
from tests.tiny import KEYS, store_maps
from tool.pictures import save_label

FORM = (10, 10)


def seen(name: str, *shares: float, equal: int = 0) -> list[Cover]:
    """Return covers of as many pictures as there are shares, the first ones of equal maps."""
    return [Cover(str(i), name, share, i < equal) for i, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("covers", "said"),
    [
        (seen("cat", 0.96, 0.97, 1, 0.3), "More than 95 % .* cat in 3 of its 4 pictures"),
        (seen("cat", 0.95, 0.95, 0.95, 0.95), None),
        (seen("cat", 0, 0, 0, 0.3), "Nothing is found of cat in 3 of its 4"),
        (seen("cat", 0, 0, 0, 0.1, 0.1, 0.1, 0.1), None),  # in fewer than half of the pictures
        (seen("cat", 0, 0), None),  # too few to say
        (seen("cat", 1, 1, 0, equal=3), "equal everywhere of cat in 3 of its 3 "),
        (seen("cat", 0, 0, 0) + seen("dog", 0, 0, 0, 0), "Nothing is found of dog in .*, cat in "),
    ],
)
def test_what_looks_wrong_in_many_pictures_of_a_class_is_said_with_what_to_try(covers, said):
    found = remarks(covers)
    assert len(found) == bool(said)
    if said:
        assert re.search(said, found[0])


def test_totals_are_counted_by_class():
    covers = [*seen("cat", 0.25, 0.75), *seen("dog", 1, 0, 0.5, 0.9, equal=1)]
    assert totals(covers) == [Total("dog", 4, 0.6, 1, 1, 1), Total("cat", 2, 0.5, 0, 0, 0)]


def test_maps_and_labels_are_counted_alike(tiny, tmp_path):
    """Background has the left half of a, red its right one; the map of b is equal everywhere."""
    dataset, half = Folder(tiny), np.arange(10) < 5
    maps = np.stack([np.broadcast_to(half, FORM), np.broadcast_to(~half, FORM)]).astype(np.float32)
    store_maps(tmp_path / "a.npz", np.array([0, 1]), maps)
    store_maps(tmp_path / "b.npz", np.array([0, 2]), np.stack([maps[0] / 2, np.ones(FORM, "f")]))
    store_maps(tmp_path / "c.npz", np.array([0, 3]), np.stack([np.ones(FORM, "f"), 0 * maps[0]]))
    (tmp_path / "d.npz").write_bytes(b"damaged")
    found = covers_of(dataset, tmp_path, "abcde", ".npz")
    by_id = {one.image_id: (one.name, one.share, one.is_equal) for one in found}
    assert by_id.keys() == {"a", "b", "c"}
    assert by_id["a"] == ("red", pytest.approx(0.5, abs=0.05), False)
    assert by_id["b"] == ("green", pytest.approx(0.5, abs=0.55), True)
    assert by_id["c"] == ("blue", 0, False)
    save_label(tmp_path / "a.png", np.broadcast_to(~half, FORM))
    assert covers_of(dataset, tmp_path, "a", ".png") == [Cover("a", "red", 0.5)]


def test_without_image_labels_the_classes_are_those_of_the_label(tiny, tmp_path):
    (tiny / "labels.csv").unlink()
    dataset, label = Folder(tiny), np.full(FORM, 3, np.uint8)
    label[0] = 255
    save_label(tmp_path / "a.png", label)
    assert covers_of(dataset, tmp_path, "a", ".png") == [Cover("a", "blue", 0.9)]
    assert shown_in(dataset, "a") is None
    save_label(tmp_path / "b.png", 0 * label)
    assert covers_of(dataset, tmp_path, "b", ".png") == [Cover("b")]
    assert totals([Cover("b")]) == []


def test_a_program_says_it_at_its_end(run, tmp_path, caplog):
    for image_id, keys in KEYS.items():
        maps = np.zeros((len(keys), 40 + "abcdef".index(image_id), 48), np.float32)
        maps[1] = 1
        maps[0, 0, 0] = 1
        store_maps(tmp_path / f"run/npy/{image_id}.npz", np.array(keys), maps)
    caplog.set_level(logging.WARNING)
    make_seg_labels.main([*run["make_seg_labels"], "--refine", "crf"])
    assert "covered by red in 3 of its 3 pictures" in caplog.text
