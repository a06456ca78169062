"""What all trainings share: rates, losses, curves, what they continue from, what they refuse."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import train_irn
import train_resnet50_SIPE as train_sipe
import train_seg
from data.folder import Folder
from data.loaders import AffinityPictures, SegmentationPictures
from net import resnet50_irn, resnet50_SIPE
from net.recipes import MODELS
from tests.tiny import KEYS, command_lines, make_weights
from tool import checkpoint, optimizer, pace, training
from tool.errors import InputError
from tool.pictures import read_mask, save_label

PROGRAMS = {"train_resnet50_SIPE": train_sipe, "train_irn": train_irn, "train_seg": train_seg}
V2, V1 = MODELS
NAMES = {"train_resnet50_SIPE": "final", "train_irn": "irn", "train_seg": f"seg_{V2}"}
TABLES = {
    "train_resnet50_SIPE": "curves.csv",
    "train_irn": "curves_irn.csv",
    "train_seg": f"curves_seg_{V2}.csv",
}
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


def table_of(session: Path, program: str) -> list[dict[str, str]]:
    with open(session / TABLES[program], newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[Path, bytes]:
    """Return all files but the log, to which a refused command adds its sentence, and hidden ones.

    Digests of what was read are remembered in a hidden file.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return {path: path.read_bytes() for path in files if path.name[0] != "."}


def test_learning_rate_is_polynomial_in_updates_done():
    assert optimizer.learning_rate(0.1, 0, 3305) == 0.1
    assert optimizer.learning_rate(0.1, 510, 3305) == pytest.approx(0.1 * (2795 / 3305) ** 0.9)
    assert optimizer.learning_rate(0.1, 3305, 3305) == 0


@pytest.mark.parametrize(
    ("program", "more", "start", "progress"),
    [
        ("train_resnet50_SIPE", [], 0.01, [s / 6 for s in range(6)]),
        ("train_irn", [], 0.01, [s / 6 for s in range(6)]),
        # It changes every second update, and would reach 0 two updates after the last one.
        ("train_seg", ["--lr_every", "2", "--lr_past", "2"], 1e-7, [0, 0, 2 / 6, 2 / 6]),
    ],
)
def test_every_update_has_the_learning_rate_of_its_step(
    lines, session, monkeypatch, program, more, start, progress
):
    seen, update = [], torch.optim.SGD.step

    def record(self, *args):
        seen.append([(group["lr"], group["lr_scale"]) for group in self.param_groups])
        return update(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", record)
    PROGRAMS[program].main([*lines[program], *more])
    expected = [start * (1 - done) ** 0.9 for done in progress]
    assert len(seen) == len(expected)
    for groups, rate in zip(seen, expected, strict=True):
        assert len({scale for _, scale in groups}) > 1
        for lr, scale in groups:
            assert lr == pytest.approx(rate * scale)
    rates = [float(row["learning_rate"]) for row in table_of(session, program)]
    assert rates == pytest.approx(expected)


class Stop(Exception):
    """Ends a training before its first step."""


SAMPLING = ["--scales", "0.75", "2", "--scale_draw", "uniform", "--hsv_shift", "7"]


@pytest.mark.parametrize(
    ("program", "decay", "more", "scale"),
    [
        ("train_resnet50_SIPE", "--wt_dec", [], 10),
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

    monkeypatch.setattr(module, "make_optimizer", make)
    monkeypatch.setattr(module, "training_loader", stop)
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
        sampling = (pictures.scales, pictures.scale_draw, pictures.hsv_shift)
        assert sampling == ([0.75, 2.0], "uniform", 7)


def test_every_step_of_segmentation_has_its_own_seed(lines, monkeypatch):
    seeds, real = [], train_seg.accumulated_step

    def record(*args):
        seeds.append(torch.initial_seed())
        return real(*args)

    monkeypatch.setattr(train_seg, "accumulated_step", record)
    train_seg.main(lines["train_seg"])
    assert seeds == [(15 << 32) + step for step in range(4)]


def test_windows_and_masks_reach_the_classifier_and_gradients_are_clipped(lines, monkeypatch):
    seen, norms = [], []
    forward, update = resnet50_SIPE.Net.forward, torch.optim.SGD.step

    def record(net, img, valid_mask):
        seen.append((img, valid_mask))
        return forward(net, img, valid_mask)

    def step(self, *args):
        grads = [p.grad.norm() for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack(grads).norm()))
        return update(self, *args)

    monkeypatch.setattr(resnet50_SIPE.Net, "forward", record)
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(train_sipe, "GRADIENT_NORM", 1e-4)
    train_sipe.main(lines["train_resnet50_SIPE"])
    assert norms == pytest.approx([1e-4] * 6, rel=0.05)
    classes = torch.cat([mask.amax((2, 3)).sum(1) for _, mask in seen])  # with background
    assert sorted(classes.tolist()) == [2] * 10 + [3] * 2
    assert any((img == 0).any() for img, _ in seen)  # padding has the mean colour


def test_irn_learns_from_pairs_of_radius_10_and_all_classes(lines, monkeypatch):
    seen, images = [], []
    loss_sums, forward = train_irn.loss_sums, resnet50_irn.AffinityDisplacementLoss.forward

    def record(edge, displacement, label, *more):
        seen.append(more)
        return loss_sums(edge, displacement, label, *more)

    def look(net, img):
        images.append(img)
        return forward(net, img)

    monkeypatch.setattr(train_irn, "loss_sums", record)
    monkeypatch.setattr(resnet50_irn.AffinityDisplacementLoss, "forward", look)
    train_irn.main(lines["train_irn"])
    assert seen == [(4, 10)] * 6
    assert AffinityPictures.scales == (0.5, 1.5)
    assert any((img == 0).any() for img in images[:6])  # padding has the mean colour


# ------------------------------------------------------------------------------ modes, validation


def test_validation_evaluates_and_training_goes_on_in_training_mode(lines, monkeypatch):
    modes, forward = [], resnet50_SIPE.Net.forward

    def record(net, *args):
        modes.append(net.training)
        return forward(net, *args)

    monkeypatch.setattr(resnet50_SIPE.Net, "forward", record)
    train_sipe.main([*lines["train_resnet50_SIPE"], "--val_freq", "2", "--val_list", "train"])
    validated = [False] * 6
    assert modes == [True] * 3 + validated + [True] * 2 + validated + [True]


def test_mean_displacement_is_measured_in_evaluation_mode(lines, monkeypatch):
    modes, forward = [], resnet50_irn.AffinityDisplacementLoss.forward

    def record(net, *args):
        modes.append(net.training)
        return forward(net, *args)

    monkeypatch.setattr(resnet50_irn.AffinityDisplacementLoss, "forward", record)
    train_irn.main(lines["train_irn"])
    assert modes == [True] * 6 + [False] * 6


class Sees(nn.Module):
    """A network whose IS-CAM is the maps that it is given."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps

    def prepare(self, picture: torch.Tensor) -> torch.Tensor:
        return picture

    def forward(self, img, valid_mask) -> dict[str, torch.Tensor]:
        return {"IS_cam": self.maps}


def test_validation_tells_class_ids_of_present_classes():
    """Maps of absent classes do not count, and each map counts by its share of its maximum."""
    maps = torch.tensor([[1.0, 0.5], [9.0, 9.0], [9.0, 9.0], [0.1, 0.3]])[None, :, None]
    label = torch.tensor([0, 0, 1], dtype=torch.uint8)
    found = train_sipe.predict(Sees(maps), label, torch.zeros(1, 3, 1, 2), (1, 2))
    assert found.tolist() == [[0, 3]]


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
        assert json.loads((session / "args.json").read_text())[program]["train_list"] == "train"
    args = train_sipe.parse_arguments(["--num_workers", "0"])
    assert train_sipe.validation_pictures(args, Folder(tiny)).ids == ["e", "f"]


def test_labels_are_resized_without_new_values(tiny):
    """Between classes 0 and 3 lie no classes 1 and 2, at any scale."""
    args = ("uniform", "bilinear", 0, 15)
    sets = [AffinityPictures(Folder(tiny), ["c"], tiny / "masks", 80, 15)]
    sets += [
        SegmentationPictures(Folder(tiny), ["c"], tiny / "masks", model, 65, (0.5, 1.7), *args)
        for model in MODELS
    ]
    for pictures in sets:
        labels = [pictures[epoch, 0]["label"] for epoch in range(8)]
        assert set(np.unique(labels)) == {0, 3, 255}


# ------------------------------------------------------------------------------ losses and curves


def test_a_loss_that_is_not_finite_is_named_with_its_step():
    training.check_finite(torch.ones(3, 2), 7, str)
    for bad in (float("nan"), float("inf")):
        losses = torch.ones(3, 2)
        losses[1, 0] = bad
        with pytest.raises(InputError, match=r"at step 8, whose pictures are p8\."):
            training.check_finite(losses, 7, lambda step: [f"p{step}"])


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_an_update_that_is_not_finite_is_not_written(bad):
    """Also the last one, after which no loss is computed."""
    net = torch.nn.Linear(2, 3)
    training.check_weights(net, 7)
    net.bias.data[1] = bad
    with pytest.raises(InputError, match=r"weights bias .* step 7\."):
        training.check_weights(net, 7)


def test_a_class_that_was_not_judged_is_an_empty_cell(lines, session, tmp_path):
    """Picture b shows green alone."""
    (tmp_path / "one.txt").write_text("b\n")
    more = ["--val_freq", "2", "--val_list", str(tmp_path / "one.txt")]
    train_sipe.main([*lines["train_resnet50_SIPE"], *more])
    row = next(row for row in table_of(session, "train_resnet50_SIPE") if row["miou"])
    assert (row["iou red"], row["iou blue"]) == ("", "")
    assert 0 <= float(row["iou green"]) <= 1


def test_the_last_update_of_a_program_is_looked_at(lines, session, monkeypatch):
    updates, update = [], torch.optim.SGD.step

    def spoil(self, *args):
        updates.append(update(self, *args))
        if len(updates) == 4:
            self.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.SGD, "step", spoil)
    with pytest.raises(InputError, match=r"step 3\."):
        train_seg.main(lines["train_seg"])
    assert not list((session / "ckpt").glob("*.pth"))


def test_pace_counts_what_this_run_did(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(pace.time, "time", lambda: clock[0])
    monkeypatch.setattr(pace.time, "ctime", lambda seconds: seconds)
    going = pace.Pace(start=100, total=200, batch_size=4)  # continued at step 100
    clock[0] = 1020.0
    assert going.report(110) == (2.0, 1000 + 2 * 100)  # 40 pictures in 20 s; 100 steps of 2 s
    clock[0] = 1030.0
    assert going.report(120) == (4.0, 1000 + 1.5 * 100)
    assert going.elapsed() == "00:00:30"


def test_curves_have_a_row_for_every_log_line(lines, session, monkeypatch):
    flags = [*lines["train_resnet50_SIPE"], "--val_freq", "2", "--val_list", "train"]
    train_sipe.main([*flags, "--print_freq", "3"])
    whole = table_of(session, "train_resnet50_SIPE")
    columns = ["step", "total", "CLS", "GSC", "learning_rate", "images_per_second", "miou"]
    assert list(whole[0])[:7] == columns
    assert [row["step"] for row in whole] == ["0", "2", "3", "4"]  # printed, or validated
    assert [bool(row["miou"]) for row in whole] == [False, True, False, True]
    log = (session / "run.log").read_text().splitlines()
    printed = [line.split() for line in log if line.startswith("step:")]
    for words, row in zip(printed, whole, strict=True):
        assert f"lossCLS:{float(row['CLS']):.4f}" in words
        assert f"lossGSC:{float(row['GSC']):.4f}" in words
    validated = [line for line in log if line.startswith("validation step:")]
    mious = [f"{float(row['miou']):.4f}" for row in whole if row["miou"]]
    assert [line.split()[-1] for line in validated] == mious
    each_step = [*lines["train_resnet50_SIPE"], "--restart"]
    train_sipe.main(each_step)
    means = table_of(session, "train_resnet50_SIPE")
    mean = np.mean([float(row["CLS"]) for row in means[1:3]])
    assert float(whole[1]["CLS"]) == pytest.approx(mean)


@pytest.mark.parametrize("program", PROGRAMS)
def test_curves_of_a_continued_training_are_those_of_a_whole_one(lines, session, program):
    flags = [*lines[program], "--save_freq", "2"]
    PROGRAMS[program].main(flags)
    whole = table_of(session, program)
    last = ckpt_of(session, program, last=True)
    content = checkpoint.load(last)
    # As a run that was killed at step 3, in the middle of a row, with a checkpoint of step 2.
    early = checkpoint.load(ckpt_of(session, program))
    ckpt_of(session, program).unlink()
    checkpoint.save(last, {**content, "step": 2, "net": early["net"]})
    table = session / TABLES[program]
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(rows[:4]) + "1")
    PROGRAMS[program].main(flags)
    again = table_of(session, program)
    assert [row["step"] for row in again] == [row["step"] for row in whole]
    assert again[:2] == whole[:2]


# ------------------------------------------------------------------------------ what is refused


def change_setting(lines, root, content):
    lines += ["--seed", "16"]


def change_list(lines, root, content):
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits/train.txt").write_text("a\nb\nc\nd\ne\n")


def change_label(lines, root, content):
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("a.png,red", "a.png,blue"))


def change_picture(lines, root, content):
    size = Image.open(root / "images/a.png").size
    Image.new("RGB", size, (1, 2, 3)).save(root / "images/a.png")


def change_label_file(lines, root, content):
    """Other pixels, in a file of the same name, size and time."""
    for folder in LABELS.values():
        path = root.parent / "run" / folder / "a.png"
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


def spoil_weights(lines, root, content):
    name = next(name for name in content["net"] if name.endswith("weight"))
    content["net"][name].fill_(torch.nan)


CHANGES = [
    ("train_seg", change_setting, False),
    ("train_seg", change_list, False),
    ("train_seg", change_picture, False),
    ("train_seg", change_label_file, False),
    ("train_seg", change_program, False),
    ("train_seg", change_classes, False),
    ("train_seg", change_classes, True),
    ("train_seg", spoil_weights, False),
    ("train_seg", spoil_weights, True),
    ("train_irn", change_picture, False),
    ("train_irn", change_label_file, True),
    ("train_irn", change_weights, False),
    ("train_resnet50_SIPE", change_picture, False),
    ("train_resnet50_SIPE", change_label, True),
    ("train_resnet50_SIPE", change_weights, False),
]


@pytest.mark.parametrize(("program", "change", "only_begun"), CHANGES)
def test_a_training_of_something_else_is_refused_and_changes_nothing(
    lines, session, tiny, program, change, only_begun
):
    """Whether it is finished or only begun, the message names the checkpoint."""
    flags = lines[program]
    PROGRAMS[program].main(flags)
    path = ckpt_of(session, program)
    if only_begun:
        path.unlink()
        path = ckpt_of(session, program, last=True)
    content = checkpoint.load(path)
    change(flags, tiny, content)
    checkpoint.save(path, content)
    before = contents(session)
    with pytest.raises(InputError, match=path.name):
        PROGRAMS[program].main(flags)
    assert contents(session) == before


def test_the_same_content_elsewhere_is_the_same_training(lines, session, tiny, weights, tmp_path):
    train_sipe.main(lines["train_resnet50_SIPE"])
    moved = tiny.rename(tmp_path / "moved")
    other = tmp_path / "other.pth"
    other.write_bytes(weights.read_bytes())
    more = ["--dataset_root", str(moved), "--pretrained", str(other)]
    written = ckpt_of(session, "train_resnet50_SIPE").stat().st_mtime_ns
    train_sipe.main([*lines["train_resnet50_SIPE"], *more])
    assert ckpt_of(session, "train_resnet50_SIPE").stat().st_mtime_ns == written


def test_pictures_that_change_meanwhile_are_noticed(lines, session, tiny, monkeypatch):
    real = resnet50_SIPE.Net.losses

    def replaced(net, out, label):
        change_picture(None, tiny, None)
        return real(net, out, label)

    monkeypatch.setattr(resnet50_SIPE.Net, "losses", replaced)
    with pytest.raises(InputError, match="content of the pictures changed"):
        train_sipe.main(lines["train_resnet50_SIPE"])
    assert not ckpt_of(session, "train_resnet50_SIPE").exists()


def test_a_second_start_touches_nothing_of_the_first(lines, session, monkeypatch):
    """The lock comes before TensorBoard, which would stop the curves of the first."""

    def taken(path, what):
        raise InputError(f"Another process is {what} at this moment.")

    monkeypatch.setattr(training, "claim", taken)
    monkeypatch.setattr(SummaryWriter, "__init__", lambda *args, **options: pytest.fail("opened"))
    before = contents(session)
    with pytest.raises(InputError, match=r"final\.pth"):
        train_sipe.main(lines["train_resnet50_SIPE"])
    assert contents(session) == before


@pytest.mark.parametrize("name", ["final.pth", "last.pth", "final.safetensors"])
def test_restart_deletes_nothing_that_somebody_else_wrote(lines, session, name):
    """A released checkpoint may lie where ours would."""
    path = session / "ckpt" / name
    checkpoint.save(path, {"net": {"w": torch.ones(1)}})
    before = path.read_bytes()
    with pytest.raises(InputError, match=name):
        train_sipe.main([*lines["train_resnet50_SIPE"], "--restart"])
    assert path.read_bytes() == before
