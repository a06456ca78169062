"""Pictures without a class: every program, and the formulas."""

import json

import numpy as np
import pytest
import torch
from conftest import play
from tiny import LABELS, command_lines

import make_cam
import train_resnet50_SIPE
from data.folder.tables import MOST_CLASSES
from eval_cam import THRESHOLDS, sweep_counts
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50_SIPE import Net
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import read_mask, save_label

WITHOUT = "bce"  # the pictures that do not show red


@pytest.mark.parametrize("others", [0, MOST_CLASSES - 1])
def test_negatives_beside_one_class_and_beside_254(tiny, weights, tmp_path, others):
    """The other classes are shown by no picture."""
    names = [*(f"other{number}" for number in range(others)), "red"]
    (tiny / "classes.txt").write_text("\n".join(names) + "\n")
    rows = [f"{i}.png,{'' if i in WITHOUT else 'red'}" for i in LABELS]
    (tiny / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    for path in (tiny / "masks").iterdir():
        save_label(path, (read_mask(path) == 1) * len(names))
    session = tmp_path / "run"
    lines = command_lines(tiny, session, weights)
    more = {
        "train_resnet50_SIPE": ["--val_freq", "2"],
        "make_cam": ["--save_cam", "--visualize", "--scales", "1.0"],
        "train_seg": ["--label_dir", str(tiny / "masks")],
    }
    play([[f"{name}.py", *line, *more.get(name, [])] for name, line in lines.items()])

    for image_id in LABELS:
        maps = read_maps(session / "npy", image_id)
        keys = [0] if image_id in WITHOUT else [0, len(names)]
        assert maps["keys"].tolist() == keys
        mask = read_mask(tiny / f"masks/{image_id}.png")
        assert maps["IS_CAM"].shape == (len(keys), *mask.shape)
        assert maps["CAM"].shape == (len(keys) - 1, *mask.shape)
        for folder in ("ir_label", "pseudo_label"):
            # Confident background where there is no class.
            may_be = {*keys, 255 if image_id not in WITHOUT else 0}
            assert {*read_mask(session / folder / f"{image_id}.png").flat} <= may_be
    result = json.loads((session / "eval_pseudo_label.json").read_text())
    assert list(result["iou"]) == ["background", *names]
    sweep = json.loads((session / "eval_cam.json").read_text())["cam"]
    assert len(sweep["miou_by_threshold"]) == len(THRESHOLDS)


def test_auto_weighs_background_by_the_pictures_with_the_fewest_classes(
    tiny, weights, tmp_path, monkeypatch
):
    """And the maps are made, and noted, with the weight that it finds."""
    lines, used = command_lines(tiny, tmp_path / "run", weights), []
    rows = ["image,red,blue", "a.png,1,0", "b.png,0,0", "c.png,1,1", "d.png,0,1", "e.png,0,0"]
    (tiny / "classes.txt").write_text("red\nblue\n")
    (tiny / "labels.csv").write_text("\n".join([*rows, "f.png,1,1"]) + "\n")
    train_resnet50_SIPE.main(lines["train_resnet50_SIPE"])
    infer = make_cam.infer

    def find(net, items):
        used.append([item["id"] for item in items])
        return 1.25

    def inferred(net, *given):
        used.append(net.background_weight)
        return infer(net, *given)

    monkeypatch.setattr(make_cam, "find_background_weight", find)
    monkeypatch.setattr(make_cam, "infer", inferred)
    auto = [*lines["make_cam"], "--scales", "1", "--background_weight", "auto"]
    make_cam.main(auto)
    assert used == [["b", "e", "a", "d"], *[1.25] * 6]
    noted = json.loads((tmp_path / "run/npy/settings.json").read_text())
    assert noted["background_weight"] == 1.25
    monkeypatch.setattr(make_cam, "LOOKED_AT", 2)
    make_cam.main(auto)  # nothing is left to do
    assert used[7:] == [["b", "e"]]
    rows = ["image,red,blue", *(f"{image_id}.png,1,1" for image_id in LABELS)]
    (tiny / "labels.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match="--background_weight auto: every picture"):
        make_cam.main(auto)


def test_training_loss_without_a_class_is_finite_and_foreground_zero():
    torch.manual_seed(0)
    net = Net(3, None, width=4).train()
    label = torch.zeros(2, 2, dtype=torch.uint8)
    box = torch.tensor([[0, 0, 64, 64]] * 2)
    out = net(torch.randn(2, 3, 64, 64), net.valid_mask(box, 64, label))
    assert not out["cam"][:, 1:].any()
    assert not out["IS_cam"][:, 1:].any()
    assert out["seeds"][:, 0].all()  # no other class has a map, so that all is background
    terms = net.losses(out, label)
    assert all(term > 0 for term in terms.values())
    sum(terms.values()).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_loss_of_irn_on_background_alone():
    torch.manual_seed(0)
    edge = torch.randn(1, 1, 24, 24, requires_grad=True)
    displacement = torch.randn(1, 2, 24, 24, requires_grad=True)
    label = torch.zeros(1, 24, 24, dtype=torch.uint8)
    terms = loss_terms(*loss_sums(edge, displacement, label, 2, 5))
    assert [term > 0 for term in terms] == [True, False, False, True]  # pos and dp_bg
    total_loss(terms).backward()
    assert torch.isfinite(edge.grad).all()
    assert torch.isfinite(displacement.grad).all()


def test_thresholds_count_background_where_there_is_no_map():
    truth = np.array([[0, 0, 1], [255, 1, 1]], np.uint8)
    counts = sweep_counts(truth, np.zeros(1, np.int64), np.zeros((0, 2, 3), np.float32), 2)
    assert counts.shape == (len(THRESHOLDS), 2, 3)
    for one in counts:
        assert one.tolist() == [[2, 0, 0], [3, 0, 0]]
