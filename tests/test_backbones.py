"""Backbones of timm: stages, any size, what is frozen, weights, and what is refused."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import eval_cam
import make_cam
import train_resnet50_SIPE as train
from data.base import Dataset
from data.predictor import Predictor
from net import backbones
from net.backbones import TimmBackbone, build
from net.resnet50_SIPE import Net
from net.weights import restore
from tool.checkpoint import load
from tool.errors import InputError
from tool.maps import read_maps

timm = pytest.importorskip("timm")

CONVNEXT, EFFICIENTNET, VIT = "test_convnext", "test_efficientnet", "test_vit"
FAMILIES = (CONVNEXT, EFFICIENTNET, VIT)
PICTURE = (2, 3, 45, 101)  # no multiple of any stride


def stages_of(net, img):
    with torch.no_grad():
        return net(img)


def assert_same(found, expected):
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_are_the_last_four_of_timms_own_features(name):
    net = TimmBackbone(name).train()
    expected = timm.create_model(name, features_only=True, out_indices=net.indices).eval()
    for weight, place in zip(net.parameters(), expected.parameters(), strict=True):
        place.data = weight.data  # the names differ
    img = torch.randn(2, 3, 160, 160)
    assert_same(stages_of(net, img), stages_of(expected, img))
    assert net.channels == expected.feature_info.channels()
    assert net.strides == expected.feature_info.reduction()


@pytest.mark.parametrize("name", [*FAMILIES, "swin_tiny_patch4_window7_224"])
def test_pictures_of_any_size_are_padded_and_their_maps_cut(name):
    net = TimmBackbone(name)
    img = torch.randn(PICTURE)
    sides = [(-(-45 // stride), -(-101 // stride)) for stride in net.strides]
    padded = F.pad(img, (0, 128 - 101, 0, 64 - 45))
    if name == VIT:
        padded = padded[:, :, :48, :112]
    expected = [x[:, :, :h, :w] for x, (h, w) in zip(stages_of(net, padded), sides, strict=True)]
    found = stages_of(net, img)
    assert [x.shape[1:] for x in found] == [
        (channels, *side) for channels, side in zip(net.channels, sides, strict=True)
    ]
    assert_same(found, expected)


def test_stages_of_a_vit_are_blocks_at_equal_distances():
    assert TimmBackbone("vit_tiny_patch16_224").indices == [2, 5, 8, 11]
    assert TimmBackbone("test_vit2").indices == [1, 3, 5, 7]
    assert TimmBackbone(VIT).indices == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "frozen", "learning"),
    [
        (CONVNEXT, ("stem", "stages.0", "stages.1"), ("stages.2", "stages.3")),
        (
            EFFICIENTNET,
            ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"),
            ("blocks.3", "blocks.4"),
        ),
        (
            VIT,
            ("cls_token", "pos_embed", "patch_embed", *(f"blocks.{i}" for i in range(4))),
            ("blocks.4", "blocks.5"),
        ),
    ],
)
def test_what_the_second_stage_needs_is_frozen(name, frozen, learning):
    net = TimmBackbone(name)
    found = {False: set(), True: set()}
    for full, weight in net.net.named_parameters():
        parts = full.split(".")
        group = ".".join(parts[: 2 if parts[0] in ("blocks", "stages") else 1])
        found[weight.requires_grad].add(group)
    assert found == {False: set(frozen), True: set(learning)}
    stages = net(torch.randn(PICTURE))
    assert [x.requires_grad for x in stages] == [False, False, True, True]
    sum(x.sum() for x in stages).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_nothing_is_left_to_chance_in_training():
    net = TimmBackbone("swin_tiny_patch4_window7_224").train()  # drops paths in timm's training
    img = torch.randn(PICTURE)
    assert_same(stages_of(net, img), stages_of(net, img))


def test_batch_normalisation_uses_what_is_stored_in_training():
    net = TimmBackbone(EFFICIENTNET).train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(torch.randn(PICTURE))
    assert before
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


@pytest.mark.parametrize(("name", "mean", "std"), [(VIT, 0.5, 0.5), (EFFICIENTNET, 0.485, 0.229)])
def test_mean_and_deviation_are_timms(name, mean, std):
    net = TimmBackbone(name)
    assert (net.mean[0], net.std[0]) == (mean, std)
    assert len(net.mean) == len(net.std) == 3


# ------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_a_file_of_timm_are_taken(name, tmp_path):
    whole = timm.create_model(name)
    path = tmp_path / "timm.pth"
    torch.save(whole.state_dict(), path)
    net = build(f"timm:{name}", path)
    own, given = net.net.state_dict(), whole.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in own.items())


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "larger.pth"
    state = TimmBackbone(CONVNEXT).net.state_dict()
    torch.save({**state, "stages.3.blocks.9.gamma": torch.ones(64)}, path)
    with pytest.raises(InputError, match=r"larger\.pth.*stages\.3\.blocks\.9"):
        build(f"timm:{CONVNEXT}", path)
    state.pop("stages.2.blocks.0.norm.weight")
    torch.save(state, path)
    with pytest.raises(InputError, match=r"larger\.pth.*missing.*stages\.2\.blocks\.0\.norm"):
        build(f"timm:{CONVNEXT}", path)


def test_timms_own_weights_are_asked_for(monkeypatch):
    asked = []
    create = timm.create_model

    def noting(name, pretrained=False, **options):
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", noting)
    build(f"timm:{VIT}.r160_in1k", "imagenet")
    build(f"timm:{VIT}", "none")
    assert asked == [(f"{VIT}.r160_in1k", True), (VIT, False)]


# ------------------------------------------------------------------------------------- refusals


def test_without_a_network_a_sentence_says_where_the_file_goes(monkeypatch):
    def create(name, pretrained, **options):
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InputError, match=r"https://huggingface\.co/timm/test_vit.*--pretrained"):
        build(f"timm:{VIT}", "imagenet")


def test_without_timm_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"--backbone timm:test_vit.*pip install timm"):
        build(f"timm:{VIT}", None)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("resnet34", "resnet50"),
        ("timm:no_such_network", "list_models"),
        ("timm:hf-hub:timm/test_vit", "list_models"),  # which timm would fetch
        ("timm:test_vit.no_such_tag", "no_such_tag"),
        ("timm:test_maxvit", "any size"),  # its windows have a size of their own
        ("timm:crossvit_9_240", "any size"),  # its stages do not follow from each other
    ],
)
def test_what_gives_no_feature_maps_is_refused(backbone, words):
    with pytest.raises(InputError, match=words) as error:
        build(backbone, None)
    assert f"--backbone {backbone}" in str(error.value)


# ------------------------------------------------------------------------------- the whole step


def test_maps_follow_the_last_stage_but_one():
    net = Net(4, None, backbone="timm:eva02_tiny_patch14_224")
    assert net.stride == 14
    mask = net.valid_mask(torch.tensor([[0, 0, 70, 42]]), 70, torch.ones(1, 3))
    out = net(torch.randn(1, 3, 70, 70), mask)
    assert out["cam"].shape == out["IS_cam"].shape == mask.shape == (1, 4, 5, 5)
    assert not out["cam"][..., 3:].any()
    assert Net(4, None, width=4).stride == 16


@pytest.mark.parametrize("name", FAMILIES)
def test_step_1_trains_continues_and_makes_maps_that_predict_repeats(
    name, flags, tiny, tmp_path, monkeypatch
):
    def stopping(parameters, norm):
        steps.append(norm)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return clip(parameters, norm)

    steps, clip = [], train.clip_grad_norm_
    own = ["--backbone", f"timm:{name}", "--pretrained", "none", "--val_freq", "2"]
    own = [*flags["train"], *own, "--save_freq", "1"]
    train.main([*own, "--session_name", str(tmp_path / "whole")])
    monkeypatch.setattr(train, "clip_grad_norm_", stopping)
    with pytest.raises(KeyboardInterrupt):
        train.main(own)
    train.main(own)
    assert len(steps) == 4 + 6 - 3
    whole, content = (load(tmp_path / run / "ckpt/final.pth") for run in ("whole", "run"))
    assert whole["net"].keys() == content["net"].keys()
    assert all(torch.equal(value, whole["net"][key]) for key, value in content["net"].items())
    assert content["config"] == {"num_classes": 4, "backbone": f"timm:{name}"}

    make_cam.main([*flags["make_cam"], "--batch_size", "3"])
    maps = read_maps(tmp_path / "run/npy", "d")
    eval_cam.main(flags["eval_cam"])
    prediction = Predictor(content.path, "cpu", max_pixels=10**6)(
        tiny / "images/d.png", ["red", "blue"]
    )
    assert np.allclose(prediction.maps, maps["IS_CAM"], atol=1e-3)
    assert (prediction.maps >= 0).all()
    assert prediction.maps.any()


def test_a_backbone_starts_from_timms_own_weights_unless_a_file_is_named(
    flags, weights, monkeypatch
):
    """What a dataset starts from is of a ResNet-50."""
    asked = []

    def build(*arguments):
        asked.append(arguments)
        raise InputError("enough")

    monkeypatch.setattr(backbones, "build", build)
    monkeypatch.setattr(Dataset, "pretrained", str(weights))
    command = [*flags["train"], "--backbone", f"timm:{VIT}"]
    place = command.index("--pretrained")
    del command[place : place + 2]
    with pytest.raises(InputError, match="enough"):
        train.main(command)
    assert asked == [(f"timm:{VIT}", "imagenet", None)]


def test_a_method_with_a_backbone_of_its_own_takes_no_other(flags, tmp_path, monkeypatch):
    (tmp_path / "plain_method.py").write_text(
        "from net import resnet50_SIPE\n\n\nclass Net(resnet50_SIPE.Net):\n"
        "    def __init__(self, num_classes, pretrained):\n"
        "        super().__init__(num_classes, pretrained)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    more = ["--network", "plain_method", "--backbone", f"timm:{VIT}"]
    with pytest.raises(InputError, match=r"--backbone timm:test_vit.*plain_method"):
        train.main([*flags["train"], *more])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"backbone": "timm:vit_base_patch16_224"}, "config"),  # which is larger than the file
        ({"backbone": "timm:hf-hub:timm/test_vit"}, "no such network"),
        ({"backbone": "/etc"}, "backbone"),
        ({"backbone": 5}, "config"),
        ({"backbone": f"timm:{VIT}", "num_classes": 10**9}, "config"),
        ({"backbone": f"timm:{VIT}", "width": 10**9}, "config"),
    ],
)
def test_configs_of_hostile_files_make_no_large_networks(config, words):
    net = Net(4, None, backbone=f"timm:{VIT}")
    content = {"net": net.state_dict(), "config": {**net.config, **config}}
    with pytest.raises(InputError, match=words):
        restore(Net, content, pretrained=None)
