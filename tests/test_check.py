"""python log/compare.py RUN --check: does a run follow the published one, and where does it not?"""

import json
import math
from collections.abc import Callable

import pytest

from log import check as check_module
from log import compare
from log.curves import PUBLISHED, Curves, read_recorded
from tests.tiny import log_of, result_with, table_of

NAMES = list(PUBLISHED)
VOC = "voc_repository_run"


@pytest.fixture
def check(tmp_path, capsys):
    """Runs the check of curves with files beside them; returns the exit status and the text."""

    def run(curves: Curves, *flags: str, **beside: dict) -> tuple[int, str]:
        folder = tmp_path / "exp"
        folder.mkdir(exist_ok=True)
        (folder / "curves.csv").write_text(table_of(curves))
        for name, content in beside.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(SystemExit) as end:
            compare.main([str(folder), "--check", *flags])
        return end.value.code, capsys.readouterr().out

    return run


def half_the_rate(curves: Curves) -> None:
    for row in curves.rows.values():
        row["learning_rate"] /= 2


def stops_improving(curves: Curves) -> None:
    stop = 600 if curves.total_steps == 3305 else 2500
    early = curves.means("loss_cls", [stop - 100, stop])[stop]
    for step, row in curves.rows.items():
        if step > stop:
            row["loss_cls"] = early


def becomes_nan(curves: Curves) -> None:
    for step, row in curves.rows.items():
        if step > 1000:
            row["loss_cls"] = math.nan


def cut(curves: Curves, until: int) -> Curves:
    return Curves(curves.total_steps, {s: row for s, row in curves.rows.items() if s <= until})


def lower_validation(curves: Curves) -> None:
    for step in curves.of("miou"):
        curves.rows[step]["miou"] -= 0.025


@pytest.mark.parametrize(
    ("name", "harm", "stage"),
    [
        *((name, stops_improving, "loss_cls") for name in NAMES),
        (VOC, becomes_nan, "loss_cls"),
        (VOC, half_the_rate, "learning_rate: at step 0"),
        (VOC, lower_validation, "validation: at step 500"),
    ],
)
def test_a_curve_that_leaves_is_found(name, harm, stage, check):
    curves = read_recorded(name)
    harm(curves)
    status, out = check(curves, "--against", name)
    assert status == 1, out
    assert f"first leaves the published one in its {stage}" in out


def test_a_run_of_another_length_is_not_the_published_one(check):
    coco = read_recorded("coco_repository_run")
    status, out = check(coco, "--against", VOC)
    assert status == 1
    assert "in its list: 25650 steps, published 3305" in out
    status, out = check(Curves(259, cut(read_recorded(VOC), 258).rows))
    assert status == 2
    assert "259 steps" in out


@pytest.mark.parametrize(("until", "status"), [(50, 2), (300, 0), (1700, 0)])
def test_a_run_that_is_still_going(until, status, check):
    found, out = check(cut(read_recorded(VOC), until))
    assert found == status, out
    assert ("so far" if status == 0 else "too few") in out


SETTINGS = {"dataset": "voc", "pretrained": "imagenet", "train_list": None, "val_list": None}
SETTINGS |= check_module.TOLERANCES["settings"]["expected"]


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({}, 0, "as published"),
        ({"batch_size": 8, "lr": 0.05}, 1, "settings: lr 0.05, not 0.1; batch_size 8"),
        ({"network": "my.net"}, 1, "settings: network my.net, not net.resnet50_SIPE"),
        ({"train_list": "mine.txt"}, 1, "settings: train_list mine, not trainaug"),
        ({"train_list": "/x/trainaug.txt"}, 0, "as published"),
        ({"pretrained": "none"}, 1, "weights: none, published: imagenet"),
        ({"pretrained": "/x/resnet.pth"}, 0, "/x/resnet.pth, published: imagenet"),
        ({"momentum": ...}, 2, "momentum unknown, not 0.0001"),
    ],
)
def test_settings_beside_the_run(change, status, text, check):
    settings = {name: v for name, v in (SETTINGS | change).items() if v is not ...}
    found, out = check(read_recorded(VOC), args={"train_resnet50_SIPE": settings})
    assert found == status, out
    assert text in out


MAPS = {"settings": {"program": "make_cam", **check_module.TOLERANCES["is_cam"]["expected"]}}
LABELS = {"program": "eval_seg_labels", "source": "exp/pseudo_label"}
IRN = LABELS | {"settings": {"program": "make_seg_labels", "refine": "irn"}}
CRF = LABELS | {"settings": {"program": "make_seg_labels", "refine": "crf"}}
V2 = {"program": "infer_seg", "model": "deeplabv2_resnet101"}
SEG = LABELS | {"settings": V2, "list": "val", "images": 1449}


@pytest.mark.parametrize(
    ("name", "miou", "about", "status", "text"),
    [
        ("cam", 0.585, MAPS, 0, "mIoU 58.5, published 58.88"),
        ("cam", 0.51, MAPS, 1, "is_cam: mIoU 51, published 58.88"),
        (
            "cam",
            0.9,
            MAPS | {"images": 3, "list": "val"},
            0,
            "list train, not val; images 1464, not 3",
        ),
        ("pseudo_label", 0.64, IRN, 1, "labels: mIoU 64, published 68"),
        ("pseudo_label", 0.64, CRF, 0, "published 64.7"),
        ("pseudo_label", 58.5, CRF, 2, "eval_pseudo_label.json"),
        ("plain", 0.9, LABELS, 0, "labels        too few values"),
        ("seg_deeplabv2_resnet101", 0.60, SEG, 1, "segmentation: mIoU 60"),
    ],
)
def test_figures_are_taken_only_where_they_are_what_is_published(
    name: str, miou: float, about: dict, status: int, text: str, check: Callable
):
    result = result_with(min(miou, 1), **about) | {"miou": miou}
    found, out = check(read_recorded(VOC), **{f"eval_{name}": result})
    assert found == status, out
    assert text in out


@pytest.mark.parametrize(("name", "form"), [*((name, table_of) for name in NAMES), (VOC, log_of)])
def test_published_runs_follow_themselves(name, form, tmp_path, capsys):
    path = tmp_path / ("curves.csv" if form is table_of else "run.log")
    path.write_text(form(read_recorded(name)))
    for flags in (["--against", name], []):
        with pytest.raises(SystemExit) as end:
            compare.main([str(path), "--check", *flags])
        out = capsys.readouterr().out
        assert end.value.code == 0, out
        expected = name if flags or "voc" in name else "coco_repository_run"
        assert f"beside {expected}" in out  # found by length and rate
