"""Folders that programs write: whose they are, of which classes, and what they were made from."""

import json
import shutil
from pathlib import Path

import pytest

from data.folder import Folder
from tests import tiny
from tests.conftest import load_program
from tests.hostile import STEPS
from tool import checkpoint
from tool.errors import InputError
from tool.maps import read_maps

PROGRAMS = {name: load_program(name) for name in STEPS}


class Chain:
    """All steps of a session on the tiny folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.session = folder / "ds", folder / "run"
        self.flags = tiny.command_lines(self.root, self.session, folder / "narrow.pth")

    def __call__(self, program: str, *more: object) -> None:
        PROGRAMS[program].main([*self.flags[program], *map(str, more)])

    def ages(self, folder: str) -> dict[str, int]:
        files = (p for p in (self.session / folder).iterdir() if p.suffix in (".npz", ".png"))
        return {path.stem: path.stat().st_mtime_ns for path in files}


def made(folder: Path) -> Chain:
    tiny.make_folder(folder / "ds")
    tiny.make_weights(folder / "narrow.pth")
    return Chain(folder)


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    chain = made(tmp_path_factory.mktemp("chain"))
    for program in PROGRAMS:
        chain(program)
    return chain


@pytest.fixture
def chain(chained, tmp_path):
    """A copy of a session after all steps."""
    shutil.copytree(chained.root.parent, tmp_path, dirs_exist_ok=True)
    return Chain(tmp_path)


# ------------------------------------------------------------------------- classes


@pytest.mark.parametrize("program", PROGRAMS)
def test_other_classes_are_refused(program, chain):
    """Also where the number of classes stays: only their order has changed."""
    (chain.root / "classes.txt").write_text("green\nred\nblue\n")
    with pytest.raises(InputError, match=r"class 1 is red.*--dataset"):
        chain(program)


@pytest.mark.parametrize("program", ["train_irn", "train_seg"])
def test_labels_of_other_classes_are_not_learnt_from(program, chain):
    """Nor where no checkpoint says so."""
    shutil.rmtree(chain.session / "ckpt")
    (chain.root / "classes.txt").write_text("green\nred\nblue\n")
    with pytest.raises(InputError, match=r"label.*--dataset"):
        chain(program)


def test_a_command_that_is_refused_deletes_nothing(chain):
    (chain.session / "npy/c.npz").unlink()
    with pytest.raises(InputError, match=r"c\.npz"):
        chain("cam2ir", "--restart")
    assert len(chain.ages("ir_label")) == 6


# ------------------------------------------------------------------------- what was made from what


def test_a_corrected_label_and_a_replaced_picture_make_what_follows_from_them_again(chain):
    folders = ("npy", "ir_label", "pseudo_label", "seg_deeplabv2_resnet101")
    before = {folder: chain.ages(folder) for folder in folders}
    csv = chain.root / "labels.csv"
    csv.write_text(csv.read_text().replace("a.png,red", "a.png,red blue"))
    shutil.copy(chain.root / "images/b.png", chain.root / "images/e.png")
    for program in ("make_cam", "cam2ir", "make_seg_labels", "infer_seg"):
        chain(program)
    assert read_maps(chain.session / "npy", "a")["keys"].tolist() == [0, 1, 3]
    for folder in folders:
        after = chain.ages(folder)
        changed = {name for name, age in after.items() if age != before[folder][name]}
        assert changed == ({"a", "e"} if folder != folders[-1] else {"e"})


def change(file: Path) -> None:
    """Double every weight of a network."""
    content = checkpoint.load(file)
    for value in content["net"].values():
        value *= 2
    checkpoint.save(file, content)


def test_maps_of_a_checkpoint_that_was_replaced_are_refused(chain):
    change(chain.session / "ckpt/final.pth")
    for program in ("cam2ir", "make_seg_labels"):
        with pytest.raises(InputError, match=r"final\.pth.*make_cam\.py --restart"):
            chain(program)
    with pytest.raises(InputError, match=r"digest.*--restart"):
        chain("make_cam")
    chain("make_cam", "--restart")
    for program in ("cam2ir", "make_seg_labels"):
        with pytest.raises(InputError, match=r"maps .*--restart"):
            chain(program)
    chain("cam2ir", "--restart")


def test_maps_of_another_network_or_checkpoint_than_asked_for_are_refused(chain):
    shutil.copy(chain.session / "ckpt/irn.pth", chain.session / "ckpt/other.pth")
    for flags, named in (
        ("--network examples.own_method", "--network"),
        ("--ckpt other.pth", "other"),
    ):
        with pytest.raises(InputError, match=named):
            chain("cam2ir", *flags.split())
    chain("cam2ir", "--network", "net.resnet50_SIPE", "--ckpt", "final.pth")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("irn", "make_seg_labels"),
        ("seg_deeplabv2_resnet101", "infer_seg"),
        ("final", "infer_seg --classifier final.pth"),
    ],
)
def test_labels_of_a_network_that_was_replaced_are_refused(name, command, chain):
    chain(*command.split(), "--restart")
    change(chain.session / f"ckpt/{name}.pth")
    with pytest.raises(InputError, match=r"digest.*--restart"):
        chain(*command.split())


def test_work_that_was_moved_continues(chain, tmp_path, monkeypatch):
    """The session renamed and given by another path, the data and the weights moved."""
    (tmp_path / "deep").mkdir()
    shutil.move(chain.session, tmp_path / "deep/renamed")
    shutil.move(chain.root, tmp_path / "data")
    shutil.move(tmp_path / "narrow.pth", tmp_path / "moved.pth")
    new = tmp_path / "deep/renamed"
    (new / "npy/a.npz").unlink()
    monkeypatch.chdir(tmp_path)
    places = ["--session_name", "deep/renamed", "--dataset_root", "data"]
    chain("train_resnet50_SIPE", *places, "--pretrained", "moved.pth")
    for program in ("make_cam", "cam2ir", "make_seg_labels", "infer_seg"):
        chain(program, *places)
    text = (new / "renamed.log").read_text()
    assert "is finished" in text
    assert text.count("6 of 6 pictures, 6 done before") == 3


# ------------------------------------------------------------------------- lists and results


def test_every_program_has_a_list_of_its_own(tmp_path, monkeypatch):
    """The steps up to the labels take the training list, and step 3.2 that of validation."""
    chain = made(tmp_path)
    (chain.root / "splits").mkdir()
    (chain.root / "splits/train.txt").write_text("a\nb\nd\n")
    (chain.root / "splits/val.txt").write_text("c\ne\n")
    (chain.root / "splits/judged.txt").write_text("a\n")
    monkeypatch.setattr(Folder, "eval_list", "judged")
    for program in PROGRAMS:
        chain(program)
    for name in ("cam", "pseudo_label"):
        result = json.loads((chain.session / f"eval_{name}.json").read_text())
        assert (result["list"], result["images"]) == ("judged", 1)
    for folder in ("npy", "ir_label", "pseudo_label"):
        assert set(chain.ages(folder)) == set("abd")
    assert set(chain.ages("seg_deeplabv2_resnet101")) == set("ce")


# ------------------------------------------------------------------------- flags


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_is_read(program, chain, monkeypatch):
    parse, read, given = PROGRAMS[program].parse_arguments, set(), set()

    def record(arguments=None):
        args = parse(arguments)
        given.update(vars(args))

        class Recording(type(args)):
            def __getattribute__(self, name):
                read.add(name)
                return super().__getattribute__(name)

        args.__class__ = Recording
        return args

    monkeypatch.setattr(PROGRAMS[program], "parse_arguments", record)
    more = {
        "train_resnet50_SIPE": ["--val_freq", "2", "--val_list", "train"],
        "infer_seg": ["--classifier", "final.pth"],
    }.get(program, [])
    again = [] if program.startswith("eval") else ["--restart"]
    chain(program, *more, *again)
    if program == "make_seg_labels":
        chain(program, "--refine", "crf", *again)
    # They count beside flags that are not given, or choose the defaults of others.
    of_others = {"archive_comp", "export_size", "recipe"}
    assert given - read <= of_others
