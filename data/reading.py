"""How the pictures of a session are read: from which bands, and from which range of values.

All programs of a session read alike. The first one that refuses nothing writes
``<session>/value_range.json``, and the later ones take what stands there.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np

from tool.errors import InputError
from tool.picture_files import PictureFile, picture_file
from tool.reader import read_json
from tool.writer import write_json

FILE = "value_range.json"
FORM = {"bands?": (int, int, int), "value_range?": (float, float), "auto?": bool}
AUTO = "auto"
PERCENTILES = (1, 99)  # of values that become black and white
MOST_PICTURES, MOST_VALUES = 200, 50_000  # looked at, of a list and of a picture


def agree_on_reading(dataset, args: Namespace) -> None:
    """Set how a dataset reads its pictures: as the flags say, and as its session did before.

    ``args.bands`` and ``args.value_range`` become those of the session where they are None; others
    than the session's raise an InputError. A program without ``--session_name`` reads as its flags
    say.
    """
    path = Path(args.session_name) / FILE if hasattr(args, "session_name") else None
    known = read_json(path, "Delete it.", FORM) if path and path.exists() else {}
    values = known.get("value_range")
    noted = {"bands": known.get("bands"), "value_range": AUTO if known.get("auto") else values}
    for name, value in noted.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
        elif known and getattr(args, name) != value:
            raise InputError(
                f"The pictures of this session are read with another --{name}, see {path}. Leave "
                "the flag out, or give another --session_name."
            )
    dataset.bands, dataset.value_range = args.bands, values or args.value_range


def note_reading(dataset, args: Namespace) -> None:
    """Write how a session's pictures are read, if it is not as usual and nobody did."""
    path = Path(args.session_name) / FILE
    if any(dataset.reading.values()) and dataset.value_range != AUTO and not path.exists():
        write_json(path, {**dataset.reading, "auto": args.value_range == AUTO})


def find_range(dataset, ids: list[str]) -> list[float]:
    """Return the 1st and the 99th percentile of the values of some pictures of a list.

    They are up to MOST_PICTURES pictures, evenly spread over the list, and of each up to some
    MOST_VALUES values, evenly spread too. A picture that cannot be read or holds NaN, or values
    that are all equal, raise an InputError.
    """
    found = []
    for image_id in ids[:: -(-len(ids) // MOST_PICTURES)]:
        path = dataset.image_path(image_id)
        with picture_file(path):
            values = PictureFile(path).samples(dataset.bands, AUTO)[0].ravel()
        found.append(values[:: -(-len(values) // MOST_VALUES)].astype(np.float64))
    low, high = np.percentile(np.concatenate(found), PERCENTILES).tolist()
    if not low < high:
        raise InputError(
            f"--value_range auto: {low:g} is the 1st and the 99th percentile of the values in "
            f"{dataset.root}. Give --value_range LOW HIGH."
        )
    return [low, high]
