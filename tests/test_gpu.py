"""Whole programs on a GPU that is pretended, see ``tests/pretend_gpu.py``."""

import importlib
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import STEPS, together

import train_seg
from data.predictor import Predictor
from data.training import Training
from tests.pretend_gpu import pretend_gpus
from tests.tiny import command_lines, make_folder
from tool.checkpoint import load_state
from tool.pictures import read_rgb

TRAINERS = ("train_resnet50_SIPE", "train_irn", "train_seg")
WRITERS = ("make_cam", "cam2ir", "make_seg_labels", "infer_seg")
SEG = "seg_deeplabv2_resnet101.pth"


def main(name: str, flags: list[str]) -> None:
    importlib.import_module(name).main(flags)


@pytest.fixture(scope="module")
def chain(weights, tmp_path_factory) -> SimpleNamespace:
    """All steps on a GPU: their session, command lines, and what was waited for.

    Attributes:
        waits: Counter of each program.
        steps: of each trainer the number of waits before every step.
        rounding: programs whose products may be rounded as they end.
    """
    folder = tmp_path_factory.mktemp("gpu")
    lines = command_lines(make_folder(folder / "tiny"), folder / "run", weights)
    lines["train_seg"] += ["--accumulate", "2"]
    waits, steps, rounding = {}, {}, []
    products = torch.backends.cuda.matmul
    plain_steps = Training.steps

    def counted(training):
        for step in plain_steps(training):
            steps[training.about["program"]].append(sum(gpus.waits.values()))
            yield step

    for name in STEPS:
        often = ["--print_freq", "100"] if name in TRAINERS else []
        products.allow_tf32 = True  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE has it
        with pretend_gpus() as gpus, pytest.MonkeyPatch.context() as patch:
            waits[name], steps[name] = gpus.waits, []
            patch.setattr(Training, "steps", counted)
            main(name, [*lines[name], *often, "--device", "cuda"])
        rounding += [name] * products.allow_tf32
    return SimpleNamespace(
        session=folder / "run", lines=lines, waits=waits, steps=steps, rounding=rounding
    )


@pytest.mark.parametrize("name", TRAINERS)
def test_no_step_of_a_training_waits(chain, name):
    """But for the first one, which has a log line, and constants that go up once."""
    found = np.diff(chain.steps[name])[1:]
    assert found.tolist() == [0] * len(found)
    assert len(found) > 1


# How often a picture is waited for, beside the network that goes up once. The CRF asks how many
# vertices its two lattices have, of which one serves all pictures of a size.
WAITS = {"make_cam": 0, "cam2ir": 22, "make_seg_labels": 1, "infer_seg": 23}


@pytest.mark.parametrize("name", WAITS)
def test_a_picture_is_waited_for_as_often_as_is_said(chain, name):
    once = ("tool/cli.py", "tool/constants.py")
    waits = chain.waits[name].items()
    found = {place: times for place, times in waits if not place.startswith(once)}
    assert sum(found.values()) / 6 == WAITS[name], found


def test_products_of_the_method_are_not_rounded(chain):
    """Whatever the environment says, as images of vendors do, in which there is TF32 elsewhere."""
    computing = [name for name in STEPS if not name.startswith("eval")]
    assert not set(computing) & set(chain.rounding)
    torch.backends.cuda.matmul.allow_tf32 = True
    with pretend_gpus():
        Predictor(chain.session / "ckpt/final.pth", "cuda")
    assert not torch.backends.cuda.matmul.allow_tf32


V1 = ["--model", "deeplabv1_resnet38", "--bn_momentum", "0.5"]
TOGETHER = [
    ("train_resnet50_SIPE", "final", 3, []),
    ("train_seg", "seg_deeplabv1_resnet38", 2, V1),
]


@pytest.mark.parametrize(("program", "name", "gpus", "more"), TOGETHER)
def test_gpus_learn_what_one_processor_does(tiny, weights, tmp_path, program, name, gpus, more):
    """DeepLab v1 normalises by the statistics of all processes."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/pseudo_label").symlink_to(tiny / "masks")
    flags = [*command_lines(tiny, tmp_path / "run", weights)[program], *more, "--batch_size", "5"]
    states = []
    for number, device in ((1, "cpu"), (gpus, "cuda")):
        device = ["--device", device, "--restart"]
        together(program, [*flags, *device], number, tmp_path / "printed.txt", gpus=gpus)
        states.append(load_state(tmp_path / f"run/ckpt/{name}.pth"))
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-6)


def test_weights_load_where_there_is_no_gpu(chain):
    paths = list(chain.session.glob("ckpt/*.pth"))
    assert len(paths) == 6
    for path in paths:
        assert torch.load(path, weights_only=True)["step"]


def test_files_are_those_of_the_cpu(chain, tmp_path):
    session = tmp_path / "run"
    shutil.copytree(chain.session / "ckpt", session / "ckpt")
    for name in WRITERS:
        main(name, [*chain.lines[name], "--session_name", str(session)])
    labels = sorted(path.relative_to(session) for path in session.glob("*/*.png"))
    assert len(labels) == 3 * 6
    for path in labels:
        assert (chain.session / path).read_bytes() == (session / path).read_bytes()
    for path in session.glob("npy/*.npz"):
        ours, theirs = np.load(chain.session / "npy" / path.name), np.load(path)
        assert all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs.files)


OTHERS = [
    ("make_cam", "--amp bf16 --batch_size 4 --scales 1 0.5 --save_format npy --save_cam"),
    ("make_seg_labels", "--refine crf --allow_pickle"),
    ("train_resnet50_SIPE", "--amp bf16 --val_freq 2 --val_list train --max_epochs 1 --restart"),
    ("train_seg", "--amp bf16 --optimizer adamw --restart --num_workers 2"),
    ("infer_seg", "--amp bf16 --mirror --no-crf --scales 1 0.5 --classifier final.pth"),
    ("train_seg", "--model deeplabv1_resnet38"),
    ("infer_seg", "--model deeplabv1_resnet38"),
]


def test_other_flags_run_on_a_gpu_too(chain, tmp_path):
    session = tmp_path / "run"
    shutil.copytree(chain.session / "ckpt", session / "ckpt")
    for name, more in OTHERS:
        flags = [*chain.lines[name], "--session_name", str(session), *more.split()]
        with pretend_gpus():
            main(name, [*flags, "--device", "cuda"])
    assert len(list(session.glob("seg_*/*.png"))) == 2 * 6


@pytest.mark.parametrize("devices", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_a_training_goes_on_on_another_device(tiny, weights, tmp_path, monkeypatch, devices):
    flags = command_lines(tiny, tmp_path / "run", weights)["train_seg"]
    flags += ["--label_dir", str(tiny / "masks"), "--save_freq", "1", "--lr", "1e-3"]
    train_seg.main([*flags, "--session_name", str(tmp_path / "whole")])
    real, losses = train_seg.mean_loss, []

    def dies(sums, counts):
        losses.append(sums)
        if len(losses) == 3:
            raise KeyboardInterrupt
        return real(sums, counts)

    monkeypatch.setattr(train_seg, "mean_loss", dies)
    ends_by = pytest.raises(KeyboardInterrupt), nullcontext()
    for device, ends in zip(devices, ends_by, strict=True):
        with pretend_gpus() if device == "cuda" else nullcontext(), ends:
            train_seg.main([*flags, "--device", device])
    assert len(losses) == 3 + 2
    whole, found = (load_state(tmp_path / name / "ckpt" / SEG) for name in ("whole", "run"))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ckpt", ["final.pth", SEG])
def test_pictures_are_predicted_as_on_the_processor(chain, ckpt):
    files = sorted(chain.session.parent.glob("tiny/images/*.png"))
    pixels = np.array(read_rgb(files[0]))
    pictures, labels = [pixels, pixels[::-1], files[1]], [["red", "blue"], None, []]
    made = {}
    for device, gpus in {"cpu": nullcontext(), "cuda": pretend_gpus()}.items():
        with gpus:
            predictor = Predictor(chain.session / "ckpt" / ckpt, device, refine="crf")
            made[device] = predictor(pictures, labels)
            if ckpt != SEG:
                made[device].append(predictor.explain(pixels, "red"))
    for one, other in zip(made["cuda"], made["cpu"], strict=True):
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-4)
        assert one.names == other.names
        assert (one.mask != other.mask).mean() < 0.02
