"""What maps and labels cover, and what of it looks wrong; no masks are needed for that."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from data.base import Dataset
from data.lists import spread
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import read_mask

LOOKED_AT = 200  # pictures of a list, evenly spread
MAP_PIXELS = 64 * 64  # of a map that is looked at
EVERYTHING = 0.95  # share of a picture above which nearly all of it is covered
EQUAL = 0.05  # difference within a map that is equal everywhere
MANY = 0.5  # share of the pictures of a class in which something has to look wrong
FEWEST = 3  # such pictures


class Cover(NamedTuple):
    """What a picture gives to a class that its image label names; or that it names none."""

    image_id: str
    name: str = ""  # of the class
    share: float = 0  # of the picture's pixels, in [0, 1]
    is_equal: bool = False  # its map is so everywhere


class Total(NamedTuple):
    """What the pictures of a class have in common."""

    name: str
    pictures: int
    share: float  # mean of the pictures'
    everything: int  # pictures that are covered nearly whole
    nothing: int  # of which nothing is covered
    equal: int  # whose map is equal everywhere


def covers_of(dataset: Dataset, folder: Path, ids: Iterable[str], ending: str) -> list[Cover]:
    """Return what some pictures, of up to LOOKED_AT of a list, give to their classes.

    Without image labels, the classes of a label picture are those that it holds. What cannot be
    read is left out.

    Args:
        dataset: whose classes they are.
        folder: of labels, ``.png``, or maps, ``.npz``, of which a pixel has the largest one's
            class.
        ids: the list.
        ending: of the files.
    """
    found = []
    for image_id in spread(ids, LOOKED_AT):
        with suppress(InputError):
            if ending == ".png":
                label, equal = read_mask(folder / f"{image_id}{ending}"), ()
                keys = shown_in(dataset, image_id)
                if keys is None:
                    keys = np.unique(label[label < dataset.num_classes])
            else:
                maps = read_maps(folder, image_id, False, dataset.num_classes, MAP_PIXELS)
                keys, is_cam = maps["keys"], maps["IS_CAM"]
                label = keys[is_cam.argmax(0)]
                lowest, highest = is_cam.min((1, 2)), is_cam.max((1, 2))
                equal = keys[(highest > 0) & (highest - lowest < EQUAL)]
            for key in keys[keys > 0].tolist():
                share = float((label == key).mean())
                found.append(Cover(image_id, dataset.all_names[key], share, key in equal))
            if not keys.any():
                found.append(Cover(image_id))
    return found


def shown_in(dataset: Dataset, image_id: str) -> np.ndarray | None:
    """Return the ids of the classes that a picture's image label names; None: it has no label."""
    with suppress(InputError, NotImplementedError):
        return dataset.labels([image_id])[0].nonzero()[0] + 1
    return None


def totals(covers: Iterable[Cover]) -> list[Total]:
    """Return what is covered in all, by class, the frequent ones first."""
    by_name = defaultdict(list)
    for cover in covers:
        by_name[cover.name].append(cover)
    by_name.pop("", None)  # of pictures without a class
    found = []
    for name, ones in by_name.items():
        shares = [one.share for one in ones]
        whole = sum(share > EVERYTHING for share in shares)
        equal = sum(one.is_equal for one in ones)
        found.append(Total(name, len(ones), fmean(shares), whole, shares.count(0), equal))
    return sorted(found, key=lambda total: (-total.pictures, total.name))


def remarks(covers: Iterable[Cover]) -> list[str]:
    """Return a sentence on everything that looks wrong in many pictures of a class."""
    found, sentences = totals(covers), []
    for kind, (what, remedy) in KINDS.items():
        names = [
            f"{total.name} in {getattr(total, kind)} of its {total.pictures} pictures"
            for total in found
            if getattr(total, kind) >= max(FEWEST, MANY * total.pictures)
        ]
        if names:
            sentences.append(f"{what} {', '.join(names)}. {remedy}")
    return sentences


KINDS = {  # fields of Total, what they say, and what to try
    "everything": (
        f"More than {100 * EVERYTHING:g} % is covered by",
        "Try make_cam.py with a higher --background_weight, and more pictures without the class.",
    ),
    "nothing": (
        "Nothing is found of",
        "Check its image labels. Try more steps of training, more of its pictures, or make_cam.py "
        "with a lower --background_weight.",
    ),
    "equal": (
        "The maps are equal everywhere of",
        "The classifier has not learnt the class: check its image labels, and train longer or with "
        "another --lr.",
    ),
}
