"""--bands and --value_range: parsed, found on a list, the same for all programs of a session."""

import json

import numpy as np
import pytest
import tifffile

import cam2ir
import eval_seg_labels
import make_seg_labels
from data import reading
from data.datasets import add_dataset_flags, open_dataset
from data.folder import Folder
from tool import cli
from tool.errors import InputError


def arguments(tiny, session, *more):
    parser = cli.make_parser("A program.")
    add_dataset_flags(parser)
    common = ["--dataset", "folder", "--dataset_root", str(tiny), "--session_name", str(session)]
    return parser.parse_args([*common, *more])


@pytest.fixture
def deep(tiny):
    """The tiny pictures as float TIFFs of values -1 to 1, the bands blue, green, red, nothing."""
    for path in sorted((tiny / "images").glob("*.png")):
        values = np.asarray(Folder(tiny).read(path.stem)).astype(np.float32) / 127.5 - 1
        path.unlink()
        bands = np.concatenate([values[..., ::-1], np.zeros_like(values[..., :1])], -1)
        tifffile.imwrite(
            path.with_suffix(".tif"), bands, planarconfig="contig", photometric="minisblack"
        )
    return tiny


RANGES = ("1", "2 1", "1 1", "nan 1", "0 inf", "0 x", "auto 1", "0 1 2", "later")
FLAGS = ["--bands", "3", "2", "1", "--value_range", "-1", "1"]


def test_flags_reach_the_dataset(tiny, tmp_path):
    args = arguments(tiny, tmp_path / "s", *FLAGS)
    dataset = open_dataset(args)
    assert (dataset.bands, dataset.value_range) == ([3, 2, 1], [-1, 1])
    assert cli.deciding(args)["value_range"] == [-1, 1]
    dataset = open_dataset(arguments(tiny, tmp_path / "t"))
    assert (dataset.bands, dataset.value_range) == (None, None)
    dataset.check_pictures(["a"])
    reading.note_reading(dataset)
    assert not (tmp_path / "t").exists()  # nothing is noted of what is usual


@pytest.mark.parametrize(
    "words",
    [
        *(f"--value_range {one}" for one in RANGES),
        *(f"--bands {one}" for one in ("0 1 2", "1 2", "1 2 x")),
    ],
)
def test_flags_that_are_none(tiny, tmp_path, words, capsys):
    with pytest.raises(SystemExit):
        arguments(tiny, tmp_path, *words.split())
    assert words.split()[0] in capsys.readouterr().err


def test_scientific_pictures_are_read_as_the_same_photographs(tiny, tmp_path, request):
    before = {i: np.asarray(Folder(tiny).read(i)) for i in "abcdef"}
    request.getfixturevalue("deep")
    dataset = open_dataset(arguments(tiny, tmp_path / "s", *FLAGS))
    for image_id, pixels in before.items():
        np.testing.assert_array_equal(np.asarray(dataset.read(image_id)), pixels)


def test_a_session_keeps_how_it_reads(deep, tmp_path):
    first = open_dataset(arguments(deep, tmp_path, *FLAGS))
    first.check_pictures(["a"])
    assert not (tmp_path / reading.FILE).exists()  # the program may still refuse
    reading.note_reading(first)
    noted = json.loads((tmp_path / reading.FILE).read_text())
    assert noted == {"bands": [3, 2, 1], "value_range": [-1, 1]}
    args = arguments(deep, tmp_path)  # a later program without the flags
    later = open_dataset(args)
    assert (later.bands, later.value_range) == ([3, 2, 1], [-1, 1])
    assert cli.deciding(args)["bands"] == [3, 2, 1]
    for flags in (["--value_range", "0", "1"], ["--value_range", "auto"], ["--bands", *"123"]):
        with pytest.raises(InputError, match=r"are read with --.*value_range\.json"):
            open_dataset(arguments(deep, tmp_path, *flags))


@pytest.mark.parametrize(
    "noted",
    [
        "{",
        '{"bands": [1, 2]}',
        '{"value_range": "low"}',
        '{"value_range": [0, NaN]}',
        '{"value_range": "auto"}',
        '{"value_range": "auto", "found": [0]}',
    ],
)
def test_a_damaged_note_names_itself_and_no_picture(deep, tmp_path, noted):
    (tmp_path / reading.FILE).write_text(noted)
    with pytest.raises(InputError, match=r"value_range\.json"):
        open_dataset(arguments(deep, tmp_path))


def test_auto_is_found_once(deep, tmp_path):
    flags = ["--bands", "3", "2", "1", "--value_range", "auto"]
    dataset = open_dataset(arguments(deep, tmp_path, *flags))
    ids = dataset.ids("train")
    dataset.check_pictures(ids)
    reading.note_reading(dataset)
    values = [tifffile.imread(dataset.image_path(i))[..., :3].ravel() for i in ids]
    low, high = np.percentile(np.concatenate(values), (1, 99))
    np.testing.assert_allclose(dataset.value_range, (low, high), rtol=1e-6)
    later = open_dataset(arguments(deep, tmp_path, *flags))
    later.check_pictures(["a"])  # alone it would have another range
    assert later.value_range == dataset.value_range
    assert open_dataset(arguments(deep, tmp_path)).value_range == "auto"


def test_auto_looks_at_a_sample(deep, monkeypatch):
    monkeypatch.setattr(reading, "MOST_PICTURES", 3)
    monkeypatch.setattr(reading, "MOST_VALUES", 100)
    dataset, seen = Folder(deep), []
    original = reading.read_samples
    monkeypatch.setattr(reading, "read_samples", lambda *a: seen.append(a) or original(*a))
    dataset.bands = [1, 2, 3]
    low, high = reading.find_range(dataset, list("abcdef"))
    assert -1 <= low < high <= 1
    assert [path.stem for path, _ in seen] == ["a", "c", "e"]


@pytest.mark.parametrize(("value", "words"), [(1, "LOW HIGH"), (np.nan, r"a\.tif holds")])
def test_auto_of_one_value_and_of_nan(tiny, value, words):
    (tiny / "images/a.png").unlink()
    tifffile.imwrite(tiny / "images/a.tif", np.full((4, 4), value, np.float32))
    with pytest.raises(InputError, match=words):
        reading.find_range(Folder(tiny), ["a"])


def test_programs_run_on_scientific_pictures(run, deep, tmp_path):
    for flags in (FLAGS, []):  # the second program finds the session's
        cam2ir.main([*run["cam2ir"], *flags])
    common = [*run["make_seg_labels"], "--refine", "crf"]
    make_seg_labels.main(common)
    eval_seg_labels.main(run["eval_seg_labels"])
    assert json.loads((tmp_path / "run/eval_pseudo_label.json").read_text())["miou"] > 0.5
    with pytest.raises(InputError, match="of this session are read with --value_range -1 1"):
        make_seg_labels.main([*common, "--value_range", "0", "1"])


def test_programs_refuse_them_without(run, deep):
    with pytest.raises(InputError, match=r"--bands 3 2 1, and say .* --value_range LOW HIGH"):
        cam2ir.main(run["cam2ir"])


def test_auto_without_a_session(deep):
    dataset = Folder(deep)
    dataset.bands, dataset.value_range = [3, 2, 1], "auto"
    dataset.check_pictures(["a", "b"])
    assert dataset.value_range == reading.find_range(dataset, ["a", "b"])
    assert dataset.read("a").mode == "RGB"
