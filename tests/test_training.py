"""What all trainings share: rates, losses, curves, what they continue from, what they refuse."""

import io
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import train_irn
import train_resnet50_SIPE as train_sipe
import train_seg
from data import training
from data.folder import Folder
from data.loaders import AffinityPictures, SegmentationPictures
from net import resnet50_irn, resnet50_SIPE
from net.recipes import MODELS
from tests.tiny import KEYS, command_lines, make_weights
from tool import checkpoint, optimizer
from tool.errors import InputError
from tool.pictures import UNSURE, read_mask, save_label
from tool.progress import Bar
from tool.reader import read_table

PROGRAMS = {"train_resnet50_SIPE": train_sipe, "train_irn": train_irn, "train_seg": train_seg}
SIPE = "train_resnet50_SIPE"
V2, V1 = MODELS
NAMES = {SIPE: "final", "train_irn": "irn", "train_seg": f"seg_{V2}"}
LABELS = {"train_irn": "ir_label", "train_seg": "pseudo_label"}


@pytest.fixture
def lines(tiny, tmp_path, weights) -> dict[str, list[str]]:
    """Command lines of the three trainers; the masks are the labels."""
    for folder in LABELS.values():
        for image_id in KEYS:
            label = read_mask(tiny / f"masks/{image_id}.png")
            save_label(tmp_path / "run" / folder / f"{image_id}.png", label)
    return command_lines(tiny, tmp_path / "run", weights)


@pytest.fixture
def session(tmp_path) -> Path:
    return tmp_path / "run"


def ckpt_of(session: Path, program: str, last: bool = False) -> Path:
    name = NAMES[program]
    if last:
        name = "last" if name == "final" else f"{name}_last"
    return session / f"ckpt/{name}.pth"


def curves_of(session: Path, program: str = SIPE) -> list[dict[str, str]]:
    ending = "" if program == SIPE else f"_{NAMES[program]}"
    return read_table(session / f"curves{ending}.csv", "", ["step"])


def contents(folder: Path) -> dict[Path, bytes]:
    """Return all files but the log, to which a refused command adds its sentence, and hidden ones.

    Digests of what was read are remembered in a hidden file.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return {path: path.read_bytes() for path in files if path.name[0] != "."}


@pytest.fixture
def wrapped(monkeypatch):
    """A function that calls another one before a function of a module or class."""

    def wrap(owner, name: str, before) -> None:
        real = getattr(owner, name)

        def replaced(*args):
            before(*args)
            return real(*args)

        monkeypatch.setattr(owner, name, replaced)

    return wrap


def test_learning_rate_is_polynomial_in_updates_done():
    assert optimizer.learning_rate(0.1, 0, 3305) == 0.1
    assert optimizer.learning_rate(0.1, 510, 3305) == pytest.approx(0.1 * (2795 / 3305) ** 0.9)
    assert optimizer.learning_rate(0.1, 3305, 3305) == 0


@pytest.mark.parametrize(
    ("program", "more", "start", "progress"),
    [
        (SIPE, [], 0.01, [s / 6 for s in range(6)]),
        ("train_irn", [], 0.01, [s / 6 for s in range(6)]),
        # It changes every second update, and would reach 0 two updates after the last one.
        ("train_seg", ["--lr_every", "2", "--lr_past", "2"], 1e-7, [0, 0, 2 / 6, 2 / 6]),
    ],
)
def test_every_update_has_the_learning_rate_of_its_step(
    lines, session, wrapped, program, more, start, progress
):
    seen = []

    def record(sgd):
        seen.append([group["lr"] / group["lr_scale"] for group in sgd.param_groups])
        assert len({group["lr_scale"] for group in sgd.param_groups}) > 1

    wrapped(torch.optim.SGD, "step", record)
    PROGRAMS[program].main([*lines[program], *more])
    expected = [start * (1 - done) ** 0.9 for done in progress]
    rates = [float(row["learning_rate"]) for row in curves_of(session, program)]
    assert rates == pytest.approx(expected)
    for groups, rate in zip(seen, expected, strict=True):
        assert groups == pytest.approx([rate] * len(groups))


class Stop(Exception):
    """Ends a training before its first step."""


SAMPLING = ["--scales", "0.75", "2", "--scale_draw", "uniform", "--hsv_shift", "7"]


@pytest.mark.parametrize(
    ("program", "decay", "more", "scale"),
    [
        (SIPE, "--wt_dec", [], 10),
        (SIPE, "--wt_dec", ["--optimizer", "adamw"], 10),
        ("train_irn", "--irn_weight_decay", [], 10),
        ("train_seg", "--weight_decay", ["--head_lr", "7", *SAMPLING], 7),
        ("train_seg", "--weight_decay", ["--head_lr", "7", "--optimizer", "adamw"], 7),
    ],
)
def test_flags_reach_seeds_optimiser_and_windows(lines, monkeypatch, program, decay, more, scale):
    module, made, seen = PROGRAMS[program], [], []

    def make(*args):
        made.append(optimizer.make_optimizer(*args))
        return made[-1]

    def stop(*args):
        seen.extend(args)
        raise Stop

    monkeypatch.setattr(training, "make_optimizer", make)
    monkeypatch.setattr(training, "training_loader", stop)
    flags = ["--seed", "3", "--momentum", "0.25", decay, "0.125"]
    with pytest.raises(Stop):
        module.main([*lines[program], *flags, *more])
    pictures, schedule, _ = seen
    assert torch.initial_seed() == pictures.seed == schedule.seed == 3  # of the heads the first
    groups = made[0].param_groups
    assert isinstance(made[0], torch.optim.AdamW if "adamw" in more else torch.optim.SGD)
    assert {group.get("momentum", 0.25) for group in groups} == {0.25}
    assert [group["weight_decay"] for group in groups[:2]] == [0.125, 0.125]
    assert [group["lr_scale"] for group in groups[:2]] == [1, scale]
    if "--hsv_shift" in more:
        sampling = (pictures.how.scales, pictures.how.scale_draw, pictures.how.hsv_shift)
        assert sampling == ([0.75, 2.0], "uniform", 7)


def test_every_step_of_segmentation_has_its_own_seed(lines, wrapped):
    seeds = []
    wrapped(train_seg, "accumulated_step", lambda *_: seeds.append(torch.initial_seed()))
    train_seg.main(lines["train_seg"])
    assert seeds == [(15 << 32) + step for step in range(4)]


def test_windows_and_masks_reach_the_classifier_and_gradients_are_clipped(
    lines, wrapped, monkeypatch
):
    seen, norms = [], []

    def step(sgd):
        grads = [p.grad.norm() for group in sgd.param_groups for p in group["params"]]
        norms.append(float(torch.stack(grads).norm()))

    wrapped(resnet50_SIPE.Net, "forward", lambda net, *given: seen.append(given))
    wrapped(torch.optim.SGD, "step", step)
    monkeypatch.setattr(train_sipe, "GRADIENT_NORM", 1e-4)
    train_sipe.main(lines[SIPE])
    assert norms == pytest.approx([1e-4] * 6, rel=0.05)
    classes = torch.cat([mask.amax((2, 3)).sum(1) for _, mask in seen])  # with background
    assert sorted(classes.tolist()) == [2] * 10 + [3] * 2
    assert any((img == 0).any() for img, _ in seen)  # padding has the mean colour


def test_irn_learns_from_pairs_of_all_classes_and_takes_its_mean_displacement(lines, wrapped):
    """Its mean displacement is then measured in evaluation mode."""
    seen, images, modes = [], [], []

    def look(net, img):
        images.append(img)
        modes.append(net.training)

    wrapped(train_irn, "loss_sums", lambda edge, displacement, label, *more: seen.append(more))
    wrapped(resnet50_irn.AffinityDisplacementLoss, "forward", look)
    train_irn.main(lines["train_irn"])
    assert seen == [(4, 10)] * 6
    assert AffinityPictures.scales == (0.5, 1.5)
    assert any((img == 0).any() for img in images[:6])  # padding has the mean colour
    assert modes == [True] * 6 + [False] * 6


# ------------------------------------------------------------------------------ validation


def test_validation_evaluates_and_training_goes_on_in_training_mode(lines, wrapped):
    modes = []
    wrapped(resnet50_SIPE.Net, "forward", lambda net, *_: modes.append(net.training))
    train_sipe.main([*lines[SIPE], "--val_freq", "2", "--val_list", "train"])
    validated = [False] * 6
    assert modes == [True] * 3 + validated + [True] * 2 + validated + [True]


def test_validation_tells_class_ids_of_present_classes():
    """Maps of absent classes do not count, and each map counts by its share of its maximum."""
    maps = torch.tensor([[1.0, 0.5], [9.0, 9.0], [9.0, 9.0], [0.1, 0.3]])[None, :, None]
    present = torch.tensor([1, 0, 0, 1], dtype=torch.uint8)
    net = Mock(return_value={"IS_cam": maps})
    assert train_sipe.predict(net, present, torch.zeros(1, 3, 1, 2), (1, 2)).tolist() == [[0, 3]]


# ------------------------------------------------------------------------------ lists and labels


def test_lists_that_are_not_named_are_the_datasets_own(lines, session, tiny, monkeypatch):
    monkeypatch.setattr(Folder, "eval_list", "val")
    (tiny / "splits").mkdir()
    (tiny / "splits/train.txt").write_text("a\nb\nc\nd\n")
    (tiny / "splits/val.txt").write_text("e\nf\n")
    for program, module in PROGRAMS.items():
        module.main(lines[program])
        content = checkpoint.load(ckpt_of(session, program))
        assert content["sources"]["train_list"].startswith("4 pictures")
    args = train_sipe.parse_arguments(["--num_workers", "0"])
    assert train_sipe.validation_ids(args, Folder(tiny)) == ["e", "f"]


def test_repeats_make_an_epoch_longer(lines, session):
    train_sipe.main([*lines[SIPE], "--repeat_rare", "1"])
    content = checkpoint.load(ckpt_of(session, SIPE))
    assert content["step"] == 8  # of 6 pictures, sqrt(2) or sqrt(3) times each: 4 a round
    assert content["sources"]["train_list"].startswith("9 pictures")


@pytest.mark.parametrize("program", LABELS)
def test_labels_that_are_unsure_everywhere_teach_nothing(program, lines, session):
    folder = session / LABELS[program]
    for path in folder.glob("*.png"):
        save_label(path, np.full_like(read_mask(path), UNSURE))
    with pytest.raises(InputError, match=f"{LABELS[program]} is 255, unsure"):
        PROGRAMS[program].main(lines[program])
    assert not (session / "args.json").exists()


def test_labels_are_resized_without_new_values(tiny):
    """Between classes 0 and 3 lie no classes 1 and 2, at any scale."""
    how = {"scales": (0.5, 1.7), "scale_draw": "uniform", "resample": "bilinear", "hsv_shift": 0}
    sets = [AffinityPictures(Folder(tiny), ["c"], 80, 15, tiny / "masks")]
    for model, recipe in MODELS.items():
        where = (Folder(tiny), ["c"], 65, 15, tiny / "masks")
        sets.append(SegmentationPictures(*where, model, replace(recipe.training, **how)))
    for pictures in sets:
        labels = [pictures[epoch, 0]["label"] for epoch in range(8)]
        assert set(np.unique(labels)) == {0, 3, 255}


# ------------------------------------------------------------------------------ losses and curves


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_losses_and_weights_that_are_not_finite_are_named_with_their_step(bad):
    net = torch.nn.Linear(2, 3)
    training.check_finite(dict(net.named_parameters()), 7)
    net.bias.data[1] = bad
    with pytest.raises(InputError, match=r"bias .* step 7\."):
        training.check_finite(dict(net.named_parameters()), 7)


def test_the_last_update_of_a_program_is_looked_at(lines, session, monkeypatch):
    """No loss is computed after it."""
    updates, update = [], torch.optim.SGD.step

    def spoil(self, *args):
        updates.append(update(self, *args))
        if len(updates) == 4:
            self.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.SGD, "step", spoil)
    with pytest.raises(InputError, match=r"step 3\."):
        train_seg.main(lines["train_seg"])
    assert not list((session / "ckpt").glob("*.pth"))


def test_a_class_that_was_not_judged_is_an_empty_cell(lines, session, tmp_path):
    """Picture b shows green alone."""
    (tmp_path / "one.txt").write_text("b\n")
    train_sipe.main([*lines[SIPE], "--val_freq", "2", "--val_list", str(tmp_path / "one.txt")])
    row = next(row for row in curves_of(session) if row["miou"])
    assert (row["iou red"], row["iou blue"]) == ("", "")
    assert 0 <= float(row["iou green"]) <= 1


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_a_bar_and_the_log_file_has_the_published_lines(
    is_terminal, lines, session, monkeypatch, capsys
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    train_sipe.main([*lines[SIPE], "--max_epochs", "1"])
    out, err = capsys.readouterr()
    name = f"{SIPE}:"
    bar = rf"{name}   0%.* 0/3 .*\r{name} 100%.* 3/3 .*step.*lossCLS:\d\.\d+ lossGSC:\S+ imps:\S+"
    assert bool(re.search(bar, err, re.S)) == is_terminal
    assert ("lossCLS" in out) != is_terminal
    assert (f"{name} 100% 3/3" in out) != is_terminal
    assert (session / "run.log").read_text().count("lossCLS") == 3


def test_pace_counts_what_this_run_did(monkeypatch, caplog):
    """By a clock that nobody sets; the other one, which says the end, may jump."""
    going = training.Training.__new__(training.Training)
    going.start = going.logged = 100  # a continued training
    going.began = going.logged_at = 1000.0
    going.total, going.schedule, going.rate = 200, Mock(step_size=4), lambda step, total: 0.1
    going.bar = Bar(200, "train", "step", 100)
    caplog.set_level("INFO")
    # 40 pictures in 20 s, and 100 steps of 2 s; then 40 pictures in 10 s, and 100 steps of 1.5 s.
    clocks = {"perf_counter.side_effect": (1020.0, 1030.0), "time.side_effect": (9e8, 10.0)}
    monkeypatch.setattr(training, "time", Mock(ctime=time.ctime, **clocks))
    for step, speed, end in ((109, 2.0, 9e8 + 180), (119, 4.0, 10 + 120)):
        going.step = step
        going._log({"CLS": 0.5})
        assert going.row["images_per_second"] == speed
        assert caplog.messages[-1].endswith(f" imps:{speed} lr: 0.1000 etc:{time.ctime(end)}")


def test_curves_have_a_row_for_every_log_line(lines, session):
    flags = [*lines[SIPE], "--val_freq", "2", "--val_list", "train"]
    train_sipe.main([*flags, "--print_freq", "3"])
    whole = curves_of(session)
    losses, pace = ["loss_cls", "loss_gsc"], ["learning_rate", "images_per_second"]
    assert list(whole[0])[:7] == ["step", "total", *losses, *pace, "miou"]
    rows = [(row["step"], bool(row["miou"])) for row in whole]  # printed, or validated
    assert rows == [("0", False), ("2", True), ("3", False), ("4", True)]
    log = (session / "run.log").read_text().splitlines()
    printed = [line for line in log if line.startswith("step:")]
    for line, row in zip(printed, whole, strict=True):
        cls, gsc = (float(row[name]) for name in losses)
        assert f" lossCLS:{cls:.4f} lossGSC:{gsc:.4f} " in line
    validated = [line.split()[-1] for line in log if line.startswith("validation step:")]
    assert validated == [f"{float(row['miou']):.4f}" for row in whole if row["miou"]]
    train_sipe.main([*lines[SIPE], "--restart"])
    mean = np.mean([float(row["loss_cls"]) for row in curves_of(session)[1:3]])
    assert float(whole[1]["loss_cls"]) == pytest.approx(mean)


def test_maps_of_some_steps_are_drawn_for_tensorboard(lines, session):
    train_sipe.main([*lines[SIPE], "--tf_freq", "2"])
    events = EventAccumulator(str(session / "runs")).Reload()
    for name in ("CAM", "IS-CAM"):
        assert [event.step for event in events.Images(name)] == [0, 2, 4]
        shown = np.array(Image.open(io.BytesIO(events.Images(name)[0].encoded_image_string)))
        assert shown.std() > 0


def test_curves_of_a_continued_training_are_those_of_a_whole_one(lines, session):
    flags = [*lines[SIPE], "--save_freq", "2"]
    train_sipe.main(flags)
    whole = curves_of(session)
    final, last = ckpt_of(session, SIPE), ckpt_of(session, SIPE, last=True)
    # As a run that was killed at step 3, with a checkpoint of step 2.
    final.unlink()
    content = checkpoint.load(last)
    checkpoint.save(last, {**content, "step": 2, "curves": content["curves"][:2]})
    train_sipe.main(flags)
    again = curves_of(session)
    assert [row["step"] for row in again] == [row["step"] for row in whole]
    assert again[:2] == whole[:2]


# ------------------------------------------------------------------------------ what is refused


def change_setting(lines, root, content):
    lines += ["--seed", "16"]


def change_label(lines, root, content):
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("a.png,red", "a.png,blue"))


def change_picture(lines, root, content):
    size = Image.open(root / "images/a.png").size
    Image.new("RGB", size, (1, 2, 3)).save(root / "images/a.png")


def change_label_file(lines, root, content):
    """Other pixels, in a file of the same name, size and time."""
    for folder in LABELS.values():
        path = root.parent / "run" / folder / "f.png"
        before, packed = path.stat(), bytearray(path.read_bytes())
        packed[-20] ^= 1
        path.write_bytes(packed)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def change_weights(lines, root, content):
    other = make_weights(root / "other.pth")
    state = torch.load(other)
    torch.save({**state, "conv1.weight": state["conv1.weight"] + 1}, other)
    lines += ["--pretrained", str(other)]


def change_classes(lines, root, content):
    content["class_names"][1:] = content["class_names"][:0:-1]


def change_program(lines, root, content):
    content["program"] = "another"


CHANGES = [
    ("train_seg", change_setting, False),
    ("train_seg", change_program, False),
    ("train_seg", change_classes, True),
    ("train_irn", change_label_file, True),
    ("train_irn", change_weights, False),
    (SIPE, change_picture, False),
    (SIPE, change_label, True),
]


@pytest.mark.parametrize(("program", "change", "only_begun"), CHANGES)
def test_a_training_of_something_else_is_refused_and_changes_nothing(
    lines, session, tiny, program, change, only_begun
):
    """Whether it is finished or only begun, the message names the checkpoint."""
    flags = lines[program]
    PROGRAMS[program].main(flags)
    path = ckpt_of(session, program, last=only_begun)
    if only_begun:
        ckpt_of(session, program).unlink()
    content = checkpoint.load(path)
    change(flags, tiny, content)
    checkpoint.save(path, content)
    before = contents(session)
    with pytest.raises(InputError, match=path.name):
        PROGRAMS[program].main(flags)
    assert contents(session) == before


def test_pictures_that_change_meanwhile_are_noticed(lines, session, tiny, wrapped):
    wrapped(resnet50_SIPE.Net, "losses", lambda *_: change_picture(None, tiny, None))
    with pytest.raises(InputError, match="pictures changed"):
        train_sipe.main(lines[SIPE])
    assert not ckpt_of(session, SIPE).exists()


def test_a_second_start_touches_nothing_of_the_first(lines, session, monkeypatch):
    """The lock comes before TensorBoard, which would stop the curves of the first."""
    monkeypatch.setattr(training, "claim", Mock(side_effect=InputError("taken")))
    monkeypatch.setattr(SummaryWriter, "__init__", lambda *args, **options: pytest.fail("opened"))
    before = contents(session)
    with pytest.raises(InputError, match="taken"):
        train_sipe.main(lines[SIPE])
    assert contents(session) == before


@pytest.mark.parametrize("name", ["last.pth", "final.safetensors"])
def test_restart_deletes_nothing_that_somebody_else_wrote(lines, session, name):
    """A released checkpoint may lie where ours would."""
    path = session / "ckpt" / name
    checkpoint.save(path, {"net": {"w": torch.ones(1)}})
    before = path.read_bytes()
    with pytest.raises(InputError, match=name):
        train_sipe.main([*lines[SIPE], "--restart"])
    assert path.read_bytes() == before
