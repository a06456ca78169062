"""Weights: published names, code that is not executed, and torchvision's file."""

import pickle

import pytest
import torch

from net import weights
from net.resnet50 import ResNet50, build_backbone, read_pretrained
from net.resnet50_SIPE import Net
from tests.fill import filled, filled_state
from tool.checkpoint import load, load_weights
from tool.errors import InputError
from tool.reader import file_digest


def published(net: Net) -> dict[str, torch.Tensor]:
    """Lay out weights as the released code saves them: every tensor under all its names."""
    state = {}
    for name, value in net.state_dict().items():
        name = name.replace("backbone.", "resnet50.")
        state[name] = value
        if name.startswith("resnet50."):
            name = name.removeprefix("resnet50.")
            if name.startswith("layer"):
                number, rest = name[5], name[7:]
                alias = f"{number}.0.{rest}"
            else:
                alias = f"0.{['conv1', 'bn1'].index(name.split('.')[0])}.{name.split('.')[1]}"
            state[f"stage{alias}"] = state[f"backbone.{alias}"] = value
    heads = ("classifier", "side1", "side2", "side3", "side4")
    for number, head in enumerate(heads):
        state[f"newly_added.{number}.weight"] = state[f"{head}.weight"]
    return state


@pytest.mark.parametrize("kept", ["", "resnet50.", "stage", "backbone."])
def test_published_layout_loads_whole_and_by_one_set_of_aliases(kept):
    source, target = filled(Net(4, None, width=4)), Net(4, None, width=4)
    whole = published(source)
    assert (len(whole), len(source.state_dict())) == (964, 323)
    state = {n: v for n, v in whole.items() if n.startswith((kept, "newly_added."))}
    load_weights(target, {f"module.{name}": value for name, value in state.items()})
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("side2.weight", None, "missing: side2.weight"),
        ("a\nb", torch.zeros(1), "left over: ab"),
        ("classifier.weight", torch.zeros(8, 128, 1, 1), "classifier.weight"),
        ("stage0.0.weight", torch.zeros(4, 3, 7, 7), "stage0.0.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(name, value, message):
    net = Net(4, pretrained=None, width=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = {**filled_state(net), name: value}
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(InputError, match=message):
        load_weights(net, state)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was executed')",))


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"net": Evil()}, path)
    with pytest.raises(InputError, match="execute code"):
        load(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(InputError, match=r"evil\.pth"):
        load(path)


@pytest.fixture
def published_file(tmp_path, monkeypatch):
    """A file in the place of torchvision's ResNet-50, its name ending in its checksum."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    torch.save({**ResNet50(4).state_dict(), "fc.bias": torch.zeros(2)}, tmp_path / "new.pth")
    path = tmp_path / f"resnet50-{file_digest(tmp_path / 'new.pth')[:8]}.pth"
    (tmp_path / "new.pth").rename(path)
    monkeypatch.setitem(weights.IMAGENET_URLS, "resnet50", path.as_uri())
    return path


def test_imagenet_weights_are_fetched_once(published_file):
    first = read_pretrained("imagenet")
    assert "fc.bias" in first
    published_file.unlink()
    again = build_backbone("imagenet", None, 2)
    assert torch.equal(again.conv1.weight, first["conv1.weight"])


def test_imagenet_weights_that_cannot_be_had_name_url_and_flag(published_file):
    """They have another checksum, or there is no network."""
    published_file.write_bytes(b"0")
    for _ in range(2):
        with pytest.raises(InputError, match=r"file://.*resnet50-.*--pretrained"):
            read_pretrained("imagenet")
        published_file.unlink(missing_ok=True)


def test_imagenet_weights_are_those_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    for name, enum in (("resnet50", "ResNet50_Weights"), ("resnet101", "ResNet101_Weights")):
        url = getattr(torchvision.models, enum).IMAGENET1K_V1.url
        assert weights.IMAGENET_URLS[name] == url


def test_random_weights_are_said(caplog):
    build_backbone(None, 4, 2)
    assert not caplog.records
    build_backbone("none", 4, 2)
    assert len(caplog.records) == 1
