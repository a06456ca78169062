"""The table of datasets: names of rows, classes of the user's own, and what is neither."""

import re
import sys

import pytest

from data.datasets import dataset_class
from data.folder import Folder
from examples.own_dataset import ClassFolders
from tool.errors import InputError


def test_rows_and_classes_of_the_users_own():
    assert dataset_class("folder") is Folder
    assert dataset_class("data.folder:Folder") is Folder
    assert dataset_class("examples.own_dataset:ClassFolders") is ClassFolders
    assert dataset_class(ClassFolders.name) is ClassFolders  # as messages name it


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vok", "no --dataset vok. Choose one of coco, demo, folder, voc, or"),
        ("data.folder", "no --dataset data.folder."),
        (".folder:Folder", "--dataset .folder:"),
        ("examples/own_dataset.py:ClassFolders", "--dataset examples/own_dataset.py:"),
        ("data.no_such:Folder", "--dataset data.no_such:"),
        ("data.folder:Foldr", "no --dataset data.folder:Foldr."),
        ("pathlib:Path", "no --dataset pathlib:Path."),
    ],
)
def test_what_is_no_dataset_is_said(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        dataset_class(name)


def test_what_a_module_of_the_users_own_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine_of_this_test.py").write_text("import no_such_package\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(InputError, match=r"mine_of_this_test: .*no_such_package"):
        dataset_class("mine_of_this_test:Mine")
