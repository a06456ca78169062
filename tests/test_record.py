"""What was made from what: files follow their sources, by content and not by clocks."""

import os

import pytest

from tool.errors import InputError
from tool.record import Outputs, digests_of, settings_of

IDS = ["a", "b", "c"]


def outputs_of(session, ids=IDS, names=("background", "cat"), program="cam2ir", **settings):
    pictures = [session / f"{image_id}.jpg" for image_id in ids]
    for picture in pictures:
        if not picture.exists():
            picture.write_bytes(picture.name.encode())
    sources = {"picture": pictures, "label": ["1"] * len(ids)}
    folder = session / "ir_label"
    return Outputs(session, folder, program, settings, names, ids, ".png", sources)


def make(outputs, restart=False):
    todo = outputs.open(restart)
    for image_id in todo:
        outputs.path_of(image_id).write_bytes(b"made")
    outputs.finish()
    return todo


def test_what_is_there_is_not_made_again(tmp_path):
    assert make(outputs_of(tmp_path)) == IDS
    assert make(outputs_of(tmp_path)) == []
    assert make(outputs_of(tmp_path), restart=True) == IDS


def test_no_picture_takes_the_name_of_a_note(tmp_path):
    """Which a JSON of a picture called settings.jpg would."""
    outputs = outputs_of(tmp_path, ids=["a", "settings"])
    outputs.ending = ".json"
    with pytest.raises(InputError, match=r"settings\.json"):
        outputs.open(False)
    assert not outputs.folder.exists()


def test_a_changed_source_makes_its_file_again_and_no_other(tmp_path):
    make(outputs_of(tmp_path))
    status = os.stat(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes(b"B.jpg")  # as long
    os.utime(tmp_path / "a.jpg")  # a clock alone is no change
    assert status.st_size == 5
    assert make(outputs_of(tmp_path)) == ["b"]


def test_a_changed_text_makes_the_file_again(tmp_path):
    make(outputs_of(tmp_path))
    outputs = outputs_of(tmp_path)
    outputs.sources["label"][2] = "2"
    assert make(outputs) == ["c"]


def test_a_longer_list_adds_to_what_is_there(tmp_path):
    make(outputs_of(tmp_path, ids=IDS[:2]))
    assert make(outputs_of(tmp_path)) == ["c"]
    (tmp_path / "a.jpg").write_bytes(b"new")
    assert make(outputs_of(tmp_path, ids=["a"])) == ["a"]
    (tmp_path / "c.jpg").write_bytes(b"new")  # which the list before did not name
    assert make(outputs_of(tmp_path)) == ["c"]


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path):
    make(outputs_of(tmp_path, gt_prob=0.7))
    with pytest.raises(InputError, match=r"gt_prob 0\.7, not 0\.9"):
        outputs_of(tmp_path, gt_prob=0.9).open(False)
    assert all((tmp_path / "ir_label" / f"{i}.png").exists() for i in IDS)
    with pytest.raises(InputError, match="--restart and a list"):
        outputs_of(tmp_path, ids=IDS[:1], gt_prob=0.9).open(True)
    assert make(outputs_of(tmp_path, gt_prob=0.9), restart=True) == IDS


def test_another_program_or_nobody_known_is_refused(tmp_path):
    make(outputs_of(tmp_path))
    with pytest.raises(InputError, match=r"make_seg_labels"):
        outputs_of(tmp_path, program="make_seg_labels").open(True)
    (tmp_path / "ir_label" / "settings.json").unlink()
    with pytest.raises(InputError, match=r"settings\.json"):
        outputs_of(tmp_path).open(True)


def test_a_missing_file_is_named_at_the_end(tmp_path):
    outputs = outputs_of(tmp_path)
    outputs.open(False)
    with pytest.raises(InputError, match="3 of 3"):
        outputs.finish()


def test_names_of_classes_are_compared_by_readers(tmp_path):
    names = ("background", "caf\u00e9")
    make(outputs_of(tmp_path, names=names))
    assert settings_of(tmp_path / "ir_label", names)["program"] == "cam2ir"
    assert settings_of(tmp_path / "other", names) == {}
    for other, words in (
        (("background", "cafe\u0301"), r"class 1 is caf\\xe9, not cafe\\u0301"),
        ((*names, "cat"), "class 2 is missing, not cat"),
        (names[::-1], "class 0"),
    ):
        with pytest.raises(InputError, match=words):
            settings_of(tmp_path / "ir_label", other)


def test_digests_read_only_what_changed(tmp_path, monkeypatch):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode())
    first = digests_of(tmp_path, files)
    assert first[0] != first[1]
    read = []
    monkeypatch.setattr("tool.record.file_digest", lambda path: read.append(path) or "new")
    files[1].write_bytes(b"bb")
    assert digests_of(tmp_path, files) == [first[0], "new"]
    assert len(read) == 1
    monkeypatch.undo()
    with pytest.raises(InputError):
        digests_of(tmp_path, [tmp_path / "missing"])
