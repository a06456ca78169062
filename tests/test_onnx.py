"""Networks as ONNX files give what PyTorch gives, at any size."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import export_onnx
from net.method import Method
from net.recipes import MODELS
from net.resnet50_SIPE import BLOCK, Net
from tests.tiny import CLASSES
from tool.errors import InputError
from tool.onnx_file import write_onnx

# Batch, height and width; the third is larger than what the exporter follows: it has more cells
# than seeds are compared with at once. The first is smaller than all dilations.
SIZES = ((1, 65, 81), (2, 200, 333), (1, 643, 530))
TOLERANCE = 1e-4  # of the largest value


class Plain(Method):
    """A network without anything of ResNet-50, at another stride."""

    stride = 8

    def __init__(self, num_classes: int = 4, pretrained: str | None = None) -> None:
        super().__init__(num_classes)
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.classifier = nn.Conv2d(8, num_classes - 1, 1)

    def forward(self, img: Tensor, valid_mask: Tensor) -> dict[str, Tensor]:
        logits = self.classifier(self.stem(img).relu())
        cam = torch.cat([torch.ones_like(logits[:, :1]), logits.sigmoid()], 1) * valid_mask
        return {"score": logits.mean((2, 3)), "cam": cam, "IS_cam": cam}


def open_file(path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    return onnxruntime.InferenceSession(path)


def save(path: Path, net: nn.Module, **more: object) -> None:
    content = {"net": net.state_dict(), "config": net.config, "class_names": list(CLASSES)}
    torch.save({**content, **more}, path)


def logits_of(net: nn.Module, picture: Tensor) -> list[Tensor]:
    return [net.predict(net.prepare(picture))]


def maps_of(net: Method, picture: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the scores and both maps of pictures, one after the other."""
    img, cams, is_cams = net.prepare(picture), [], []
    for one, label in zip(img, labels, strict=True):
        present = torch.cat([torch.ones(1), label])[None, :, None, None]
        cam, is_cam = net.localize(torch.stack([one, one.flip(2)]), present)
        cams.append(cam)
        is_cams.append(is_cam)
    return [net.scores(img), torch.cat(cams), torch.cat(is_cams)]


@torch.no_grad()
def compare(path: Path, net: nn.Module, expected_of: Callable, *names: str) -> None:
    """Compare the outputs of a file with the network that it is of, at all sizes."""
    session = open_file(path)
    assert tuple(output.name for output in session.get_outputs()) == names
    for batch, *size in SIZES:
        torch.manual_seed(1)
        given = {"picture": torch.rand(batch, 3, *size) * 255}
        if expected_of is maps_of:
            given["labels"] = torch.tensor([[1.0, 0, 1], [0, 1, 0]])[:batch]
        expected = expected_of(net, **given)
        found = session.run(None, {name: value.numpy() for name, value in given.items()})
        for ours, theirs in zip(expected, found, strict=True):
            assert ours.shape == theirs.shape
            assert np.abs(theirs - ours.numpy()).max() < TOLERANCE * ours.abs().max()


@pytest.mark.parametrize("model", MODELS)
def test_a_segmentation_network_of_a_checkpoint_alone(tmp_path, model):
    torch.manual_seed(0)
    net = MODELS[model].network(4, width=4, blocks=(1, 1, 1, 1)).eval()
    save(tmp_path / "x.pth", net, model=model)
    pytest.importorskip("onnx")
    export_onnx.main(["--ckpt", str(tmp_path / "x.pth")])
    compare(tmp_path / "x.onnx", net, logits_of, "logits")
    about = open_file(tmp_path / "x.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == list(CLASSES)
    assert "CRF" in about["outside"]


@pytest.mark.parametrize(
    "size",
    [{"width": 4}, {"backbone": "timm:test_convnext"}, {"backbone": "timm:test_vit"}],
)
def test_a_classifier_of_a_checkpoint_alone(tmp_path, size):
    if "backbone" in size:
        pytest.importorskip("timm")
    assert SIZES[-1][1] * SIZES[-1][2] / 16**2 > BLOCK
    torch.manual_seed(0)
    net = Net(4, None, **size).eval()
    save(tmp_path / "x.pth", net)
    pytest.importorskip("onnx")
    export_onnx.main(["--ckpt", str(tmp_path / "x.pth"), "--out", str(tmp_path / "c.onnx")])
    compare(tmp_path / "c.onnx", net, maps_of, "logits", "cam", "is_cam")


def test_a_network_of_the_users_own(tmp_path, monkeypatch):
    """It has what the base class has for it."""
    monkeypatch.setitem(sys.modules, "plain", type(sys)("plain"))
    sys.modules["plain"].Net = Plain
    net = Plain().eval()
    save(tmp_path / "x.pth", net, settings={"network": "plain"})
    pytest.importorskip("onnx")
    ckpt = ["--ckpt", str(tmp_path / "x.pth")]
    with pytest.raises(InputError, match="--network plain"):
        export_onnx.main(ckpt)
    export_onnx.main([*ckpt, "--network", "plain"])
    compare(tmp_path / "x.onnx", net, maps_of, "logits", "cam", "is_cam")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda net, img: net.stem(img).mean((2, 3)) * float(img.shape[2]), "other sizes"),
        (
            lambda net, img: F.interpolate(
                net.stem(img), (9, 9), mode="bilinear", antialias=True
            ).mean((2, 3)),
            "export",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch, scores, message):
    pytest.importorskip("onnx")
    monkeypatch.setattr(Plain, "scores", scores)
    net = export_onnx.Classifier(Plain().eval())
    inputs = {"picture": torch.rand(1, 3, 320, 320), "labels": torch.ones(1, 3)}
    with pytest.raises(InputError, match=message):
        write_onnx(tmp_path / "x.onnx", net, inputs, ["logits", "cam", "is_cam"], [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_onnx_a_sentence_says_what_to_install(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match="pip install onnx"):
        write_onnx(tmp_path / "x.onnx", None, {}, [], [])
