"""--bands and --value_range: parsed, found on a list, the same for all programs of a session."""

import json

import numpy as np
import pytest
import tifffile

import cam2ir
import eval_seg_labels
from data import base
from data.datasets import READING, make_parser, note_reading, open_dataset
from data.folder import Folder
from tool import cli
from tool.errors import InputError

BANDS = ["--bands", "3", "2", "1"]
FLAGS = [*BANDS, "--value_range", "-1", "1"]
AUTO = [*BANDS, "--value_range", "auto"]


def arguments(tiny, session, *more):
    parser = make_parser("A program.")
    common = ["--dataset", "folder", "--dataset_root", str(tiny), "--session_name", str(session)]
    return parser.parse_args([*common, *more])


@pytest.fixture
def photographs(tiny) -> dict[str, np.ndarray]:
    return {image_id: np.asarray(Folder(tiny).read(image_id)) for image_id in "abcdef"}


@pytest.fixture
def deep(tiny, photographs):
    """The tiny pictures as float TIFFs of values -1 to 1, the bands blue, green, red, nothing."""
    for image_id, pixels in photographs.items():
        (tiny / f"images/{image_id}.png").unlink()
        values = pixels[..., ::-1].astype(np.float32) / 127.5 - 1
        bands = np.concatenate([values, np.zeros_like(values[..., :1])], -1)
        layout = {"planarconfig": "contig", "photometric": "minisblack"}
        tifffile.imwrite(tiny / f"images/{image_id}.tif", bands, **layout)
    return tiny


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        *(("--value_range", words) for words in ("1", "1 1", "nan 1", "auto 1", "0 1 2", "later")),
        *(("--bands", words) for words in ("0 1 2", "1 2", "1 2 x")),
    ],
)
def test_flags_that_are_none(tiny, tmp_path, flag, words, capsys):
    with pytest.raises(SystemExit):
        arguments(tiny, tmp_path, flag, *words.split())
    assert flag in capsys.readouterr().err


def test_what_is_usual_is_not_noted(tiny, tmp_path):
    args = arguments(tiny, tmp_path / "s")
    dataset = open_dataset(args)
    dataset.check_pictures(["a"])
    note_reading(dataset, args)
    assert (dataset.bands, dataset.value_range) == (None, None)
    assert not (tmp_path / "s").exists()


def test_a_session_keeps_how_it_reads(deep, photographs, tmp_path):
    """And reads scientific pictures as the photographs that they show."""
    args = arguments(deep, tmp_path, *FLAGS)
    first = open_dataset(args)
    first.check_pictures(["a"])
    assert not (tmp_path / READING).exists()  # the program may still refuse
    note_reading(first, args)
    expected = {"bands": [3, 2, 1], "value_range": [-1, 1]}
    noted = json.loads((tmp_path / READING).read_text())
    assert noted == {**expected, "auto": False}
    args = arguments(deep, tmp_path)  # a later program without the flags
    later = open_dataset(args)
    assert cli.deciding(args) | expected == cli.deciding(args)
    for image_id, pixels in photographs.items():
        np.testing.assert_array_equal(np.asarray(later.read(image_id)), pixels)
    for flags in (["--value_range", "auto"], ["--bands", "1", "2", "3"]):
        with pytest.raises(InputError, match=rf"{flags[0]}.*value_range\.json"):
            open_dataset(arguments(deep, tmp_path, *flags))


@pytest.mark.parametrize("noted", ['{"bands": [1, 2]}', '{"value_range": [0, NaN]}'])
def test_a_damaged_note_names_itself_and_no_picture(deep, tmp_path, noted):
    (tmp_path / READING).write_text(noted)
    with pytest.raises(InputError, match=r"value_range\.json"):
        open_dataset(arguments(deep, tmp_path))


def test_auto_is_found_once(deep, tmp_path):
    args = arguments(deep, tmp_path, *AUTO)
    dataset = open_dataset(args)
    ids = dataset.ids("train")
    dataset.check_pictures(ids)
    note_reading(dataset, args)
    values = [tifffile.imread(dataset.image_path(i))[..., :3].ravel() for i in ids]
    low, high = np.percentile(np.concatenate(values), (1, 99))
    np.testing.assert_allclose(dataset.value_range, (low, high), rtol=1e-6)
    later = open_dataset(arguments(deep, tmp_path, *AUTO))
    later.check_pictures(["a"])  # alone it would have another range
    assert later.value_range == dataset.value_range
    args = arguments(deep, tmp_path)
    assert open_dataset(args).value_range == dataset.value_range
    assert args.value_range == "auto"


def test_auto_without_a_session_looks_at_a_sample(deep, monkeypatch):
    monkeypatch.setattr(base, "MOST_PICTURES", 3)
    monkeypatch.setattr(base, "MOST_VALUES", 100)
    seen, read = [], base.picture_file
    monkeypatch.setattr(base, "picture_file", lambda path: seen.append(path.stem) or read(path))
    dataset = Folder(deep)
    dataset.bands, dataset.value_range = [3, 2, 1], "auto"
    dataset.check_pictures(list("abcdef"))
    low, high = dataset.value_range
    assert -1 <= low < high <= 1
    assert seen == ["a", "c", "e"]


@pytest.mark.parametrize(("value", "words"), [(1, "1 is"), (np.nan, "nan is")])
def test_auto_of_one_value_and_of_nan(deep, value, words):
    tifffile.imwrite(deep / "images/a.tif", np.full((4, 4), value, np.float32))
    dataset = Folder(deep)
    dataset.value_range = "auto"
    with pytest.raises(InputError, match=words):
        dataset.check_pictures(["a"])


def test_programs_run_on_scientific_pictures(run, deep, tmp_path):
    with pytest.raises(InputError, match=r"--bands 3 2 1, .* --value_range LOW HIGH"):
        cam2ir.main(run["cam2ir"])
    for flags in (FLAGS, []):  # the second program finds the session's
        cam2ir.main([*run["cam2ir"], *flags])
    labels = ["--label_dir", str(tmp_path / "run/ir_label")]
    eval_seg_labels.main([*run["eval_seg_labels"], *labels])
    assert json.loads((tmp_path / "run/eval_ir_label.json").read_text())["miou"] > 0.1
