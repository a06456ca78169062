"""Pictures without a class: every program, and the formulas."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import LABELS, command_lines

import cam2ir
import eval_cam
import eval_seg_labels
import infer_seg
import make_cam
import make_seg_labels
import train_irn
import train_resnet50_SIPE
import train_seg
from data.folder import MOST_CLASSES
from eval_cam import THRESHOLDS, sweep_counts
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50_SIPE import Net, valid_mask
from tool.maps import read_maps
from tool.metrics import ConfusionMatrix
from tool.pictures import read_mask, save_label

WITHOUT = "bce"  # the pictures that do not show red


def with_classes(root: Path, others: int) -> list[str]:
    """Give the tiny folder some classes that no picture shows, and red, which three show."""
    names = [*(f"other{number}" for number in range(others)), "red"]
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    rows = [f"{i}.png,{'' if i in WITHOUT else 'red'}" for i in LABELS]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    for image_id in LABELS:
        path = root / f"masks/{image_id}.png"
        save_label(path, (read_mask(path) == 1) * len(names))
    return names


@pytest.mark.parametrize("others", [0, MOST_CLASSES - 1])
def test_negatives_beside_one_class_and_beside_254(tiny, weights, tmp_path, others):
    names, session = with_classes(tiny, others), tmp_path / "run"
    lines = command_lines(tiny, session, weights)
    train_resnet50_SIPE.main([*lines["train_resnet50_SIPE"], "--val_freq", "2"])
    cam = ["--save_cam", "--visualize", "--scales", "1.0", "0.5"]
    make_cam.main([*lines["make_cam"], *cam])
    eval_cam.main(lines["eval_cam"])
    cam2ir.main(lines["cam2ir"])
    train_irn.main(lines["train_irn"])
    make_seg_labels.main([*lines["make_seg_labels"], "--visualize"])
    eval_seg_labels.main(lines["eval_seg_labels"])
    crf = ["--refine", "crf", "--out_dir", str(session / "crf")]
    make_seg_labels.main([*lines["make_seg_labels"], *crf])
    train_seg.main([*lines["train_seg"], "--label_dir", str(tiny / "masks")])
    infer_seg.main(lines["infer_seg"])

    matrix = ConfusionMatrix(len(names) + 1)
    for image_id in LABELS:
        maps = read_maps(session / "npy", image_id)
        keys = [0] if image_id in WITHOUT else [0, len(names)]
        assert maps["keys"].tolist() == keys
        mask = read_mask(tiny / f"masks/{image_id}.png")
        assert maps["IS_CAM"].shape == (len(keys), *mask.shape)
        assert maps["CAM"].shape == (len(keys) - 1, *mask.shape)
        for folder in ("ir_label", "pseudo_label", "crf", "seg_deeplabv2_resnet101"):
            label = read_mask(session / folder / f"{image_id}.png")
            assert label.shape == mask.shape
            if not folder.startswith("seg"):  # confident background where there is no class
                assert set(np.unique(label)) <= {*keys, 255 if image_id not in WITHOUT else 0}
        matrix.update(mask, read_mask(session / f"pseudo_label/{image_id}.png"))
    for name in ("eval_cam", "eval_pseudo_label"):
        result = json.loads((session / f"{name}.json").read_text())
        assert list(result["iou"]) == ["background", *names]
        assert 0 < result["miou"] < 1
    assert result["miou"] == pytest.approx(matrix.miou())
    sweep = json.loads((session / "eval_cam.json").read_text())["cam"]
    assert len(sweep["miou_by_threshold"]) == len(THRESHOLDS)


def test_one_class_in_every_picture_is_warned_of(tiny, weights, tmp_path, caplog):
    with_classes(tiny, 0)
    (tiny / "labels.csv").write_text("image,red\n" + "".join(f"{i},1\n" for i in LABELS))
    lines = command_lines(tiny, tmp_path / "run", weights)["train_resnet50_SIPE"]
    with caplog.at_level(logging.WARNING):
        train_resnet50_SIPE.main(lines)
    assert "every picture of the training list shows red" in caplog.text


def test_training_loss_without_a_class_is_finite_and_foreground_zero():
    torch.manual_seed(0)
    net = Net(3, None, width=4).train()
    label = torch.zeros(2, 2, dtype=torch.uint8)
    box = torch.tensor([[0, 0, 64, 64]] * 2)
    out = net(torch.randn(2, 3, 64, 64), valid_mask(box, 64, label))
    assert not out["cam"][:, 1:].any()
    assert not out["IS_cam"][:, 1:].any()
    assert out["seeds"][:, 0].all()  # no other class has a map, so that all is background
    terms = net.losses(out, label)
    sum(terms.values()).backward()
    for term in terms.values():
        assert torch.isfinite(term)
        assert term > 0
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_loss_of_irn_on_background_alone():
    torch.manual_seed(0)
    edge = torch.randn(1, 1, 24, 24, requires_grad=True)
    displacement = torch.randn(1, 2, 24, 24, requires_grad=True)
    label = torch.zeros(1, 24, 24, dtype=torch.uint8)
    terms = loss_terms(*loss_sums(edge, displacement, label, 2, 5))
    pos, neg, dp_fg, dp_bg = terms.tolist()
    assert (neg, dp_fg) == (0, 0)
    assert pos > 0
    assert dp_bg > 0
    total_loss(terms).backward()
    assert torch.isfinite(edge.grad).all()
    assert torch.isfinite(displacement.grad).all()


def test_thresholds_count_background_where_there_is_no_map():
    truth = np.array([[0, 0, 1], [255, 1, 1]], np.uint8)
    counts = sweep_counts(truth, np.zeros(0, np.int64), np.zeros((0, 2, 3), np.float32), 2)
    assert counts.shape == (len(THRESHOLDS), 2, 3)
    for one in counts:
        assert one.tolist() == [[2, 0, 0], [3, 0, 0]]
