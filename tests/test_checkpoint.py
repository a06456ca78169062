"""Weights: names in use, complaints, and files that were cut off."""

import pickle

import pytest
import torch

from net import weights
from net.resnet50 import ResNet50, build_backbone, read_pretrained
from net.resnet50_SIPE import Net
from tests.fill import filled_state
from tool import checkpoint
from tool.checkpoint import load, load_weights, state_dict_of
from tool.errors import InputError

STAGES = ("", "layer1", "layer2", "layer3", "layer4")


def published(net: Net) -> dict[str, torch.Tensor]:
    """Lay out weights as the released code saves them: every tensor under all its names."""
    state = {}
    for name, value in net.state_dict().items():
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


def test_published_layout_of_964_keys_loads():
    source = Net(21, pretrained=None, width=4)
    load_weights(source, filled_state(source))
    state = published(source)
    assert len(state) == 964
    assert len({value.data_ptr() for value in state.values()}) == 323
    target = Net(21, pretrained=None, width=4)
    load_weights(target, state)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
    load_weights(target, {f"module.{name}": value for name, value in state.items()})


@pytest.mark.parametrize("kept", ["resnet50.", "stage", "backbone."])
def test_one_set_of_aliases_is_enough(kept):
    source, target = (Net(4, pretrained=None, width=4) for _ in range(2))
    state = {
        name: value
        for name, value in published(source).items()
        if name.startswith((kept, "newly_added."))
    }
    load_weights(target, state)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_torchvision_names_load_into_the_network():
    net = Net(4, pretrained=None, width=4)
    state = {n.removeprefix("resnet50."): v for n, v in filled_state(net).items()}
    load_weights(net, state)
    assert torch.equal(net.resnet50.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("side2.weight"), "missing: side2.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "left over: extra"),
        (lambda s: s.update({"classifier.weight": torch.zeros(8, 128, 1, 1)}), "classifier.weight"),
        (lambda s: s.update({"stage0.0.weight": torch.zeros(4, 3, 7, 7)}), "different values"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(change, message):
    net = Net(4, pretrained=None, width=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = filled_state(net)
    change(state)
    with pytest.raises(InputError, match=message):
        load_weights(net, state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_every_tensor_has_one_name():
    pointers = [value.data_ptr() for value in Net(4, None, 4).state_dict().values()]
    assert len(pointers) == len(set(pointers))


def test_missing_truncated_and_foreign_files(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(InputError, match=r"no checkpoint .*net\.pth"):
        load(path)
    checkpoint.save(path, {"net": {"weight": torch.zeros(1000)}, "step": 3})
    assert load(path)["step"] == 3
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"net\.pth"):
        load(path)
    path.write_text("not a checkpoint")
    with pytest.raises(InputError, match=r"net\.pth"):
        load(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(InputError, match="holds a Tensor"):
        load(path)
    with pytest.raises(InputError, match="No state dict"):
        state_dict_of({"step": 3})


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was executed')",))


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"net": Evil()}, path)
    with pytest.raises(InputError, match="execute code"):
        load(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"evil\.pth"):
        load(path)


def test_backbone_reads_half_precision_and_drops_fc(tmp_path):
    path = tmp_path / "half.pth"
    state = {name: value.half() for name, value in filled_state(ResNet50(8)).items()}
    torch.save({**state, "fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, path)
    backbone = build_backbone(path, width=None, frozen_stages=2)
    assert backbone.width == 8
    assert backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"].float())


@pytest.fixture
def published_file(tmp_path, monkeypatch):
    """A file in the place of torchvision's ResNet-50, its name ending in its checksum."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    torch.save({**ResNet50(4).state_dict(), "fc.bias": torch.zeros(2)}, tmp_path / "new.pth")
    path = tmp_path / f"resnet50-{checkpoint.digest(tmp_path / 'new.pth')[:8]}.pth"
    (tmp_path / "new.pth").rename(path)
    monkeypatch.setitem(weights.IMAGENET_URLS, "resnet50", path.as_uri())
    return path


def test_imagenet_weights_are_fetched_once(published_file):
    first = read_pretrained("imagenet")
    assert "fc.bias" in first
    published_file.unlink()
    again = build_backbone("imagenet", None, 2)
    assert torch.equal(again.conv1.weight, first["conv1.weight"])


def test_imagenet_weights_with_another_checksum_are_refused(published_file):
    published_file.write_bytes(published_file.read_bytes() + b"0")
    with pytest.raises(InputError, match=r"invalid hash value.*Download file://.* by hand"):
        read_pretrained("imagenet")


def test_imagenet_without_network_names_url_and_flag(published_file):
    published_file.unlink()
    with pytest.raises(InputError, match=r"Download file://.*resnet50-.*--pretrained"):
        read_pretrained("imagenet")


def test_imagenet_weights_are_those_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    for name, enum in (("resnet50", "ResNet50_Weights"), ("resnet101", "ResNet101_Weights")):
        url = getattr(torchvision.models, enum).IMAGENET1K_V1.url
        assert weights.IMAGENET_URLS[name] == url


def test_random_weights_are_said(caplog):
    build_backbone(None, 4, 2)
    assert not caplog.records
    assert read_pretrained("none") is None
    build_backbone("none", 4, 2)
    assert len(caplog.records) == 1


def test_names_in_a_message_stay_on_its_line():
    net = ResNet50(1)
    with pytest.raises(InputError, match=r"left over: ab\.") as error:
        load_weights(net, {**net.state_dict(), "a\nb": torch.zeros(1)})
    assert "\n" not in str(error.value)
