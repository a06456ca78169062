"""How the pictures of a session are read: from which bands, and from which range of values.

All programs of a session read alike. The first one that refuses nothing writes
``<session>/value_range.json``, and the later ones take what stands there.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np

from tool.errors import InputError
from tool.picture_files import picture_file
from tool.reader import check, decoding, read_json
from tool.samples import read_samples
from tool.writer import write_json

FILE = "value_range.json"
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
    known = _read(path) if path else {}
    for name in ("bands", "value_range"):
        given = getattr(args, name, None)
        if given is None:
            setattr(args, name, known.get(name))
        elif known and given != known.get(name):
            raise InputError(
                f"The pictures of this session are read with --{name} {_words(known.get(name))}, "
                f"not {_words(given)}, see {path}. Give that, or another --session_name."
            )
    dataset.bands, dataset.value_range, dataset.reading_file = args.bands, args.value_range, path


def reading_of(dataset) -> dict:
    """Return how pictures are read, for checkpoints that are used without their dataset."""
    values = dataset.value_range
    return {"bands": dataset.bands, "value_range": values and list(values)}


def settle(dataset, ids: list[str]) -> None:
    """Find the range of ``auto`` where no program of the session did, see :func:`find_range`."""
    given, path = dataset.value_range, dataset.reading_file
    dataset.reading = {"bands": dataset.bands, "value_range": given, **dataset.reading}
    if given == AUTO:
        known = _read(path) if path else {}
        dataset.value_range = known.get("found") or find_range(dataset, ids)
        dataset.reading["found"] = dataset.value_range


def note_reading(dataset) -> None:
    """Write how a session's pictures are read, if it is not as usual and nobody did."""
    path, reading = dataset.reading_file, dataset.reading
    if any(value is not None for value in reading.values()) and not path.exists():
        write_json(path, reading)


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
            values = read_samples(path, dataset.bands).values.ravel()
        values = values[:: -(-len(values) // MOST_VALUES)].astype(np.float64)
        if np.isnan(values).any():
            raise InputError(f"{path} holds values that are no numbers (NaN). Fill them.")
        found.append(values)
    low, high = np.percentile(np.concatenate(found), PERCENTILES).tolist()
    if not low < high:
        raise InputError(
            f"--value_range auto: {low:g} is the 1st and the 99th percentile of the values in "
            f"{dataset.root}. Give --value_range LOW HIGH."
        )
    return [low, high]


def _read(path: Path) -> dict:
    """Return what a session noted, nothing where it did not; a damaged file is an InputError."""
    if not path.exists():
        return {}
    remedy = "Delete it."
    known = read_json(path, remedy, {"bands?": (int, int, int)})
    with decoding(path, remedy):
        values = known.get("value_range")
        if values == AUTO:
            check(known, {"found": (float, float)})
        elif values is not None:
            check(values, (float, float), "its value_range")
    return known


def _words(value: list | str | None) -> str:
    """Return a flag's value as on the command line."""
    return " ".join(f"{one:g}" for one in value) if isinstance(value, list) else str(value).lower()
