"""The network and its mathematics, against float64 formulas and the reference's numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from data.inference import infer
from data.transforms import rescale
from net.inputs import normalise
from net.resnet50 import FixedBatchNorm, ResNet50, fold_batch_norm
from net.resnet50_SIPE import (
    CAM,
    Net,
    consistency_loss,
    general_cam,
    get_prototype,
    get_seed,
    reactivate,
)
from net.weights import restore
from tests.fill import filled
from tests.reference import parity, relative
from tool.errors import InputError
from tool.maps import fuse
from tool.optimizer import learning_rate, set_learning_rate

TOLERANCE = 1e-5


def pixels(images: torch.Tensor) -> torch.Tensor:
    return normalise(images.movedim(-1, -3))


def test_general_cam_by_hand():
    cam = general_cam(torch.tensor([[[[2.0, -1.0]], [[0.5, 1.0]]]]))
    expected = torch.tensor([[[[0.0, 0.0]], [[1.0, 0.0]], [[0.5, 1.0]]]])
    torch.testing.assert_close(cam, expected, atol=2e-5, rtol=0)


def whole_seeds(cam, feature, dtype):
    """A of all positions at once, with (B, N, N) similarities."""
    cam, feature = cam.flatten(2).to(dtype), feature.flatten(2).to(dtype)
    feature = feature / (feature.norm(dim=1, keepdim=True) + 1e-5)
    similarity = F.relu(feature.transpose(1, 2) @ feature)
    intersection = cam @ similarity
    union = similarity.sum(1, keepdim=True) + cam.sum(2, keepdim=True) - intersection
    iou = intersection / union.clamp_min(1e-5)
    return iou


@pytest.mark.parametrize("weight", [0.5, 1.25])
@pytest.mark.parametrize(("h", "w", "dtype"), [(47, 63, torch.float64), (32, 32, torch.float32)])
def test_seeds_of_large_maps(h, w, dtype, weight):
    """2961 positions are those of 375x500 at scale 2; 1024 are one block, the whole form's bits."""
    generator = torch.Generator().manual_seed(0)
    cam = general_cam(torch.randn(2, 5, h, w, generator=generator))
    feature = torch.randn(2, 64, h, w, generator=generator).relu()
    iou = whole_seeds(cam, feature, dtype)
    iou[:, 0] *= weight
    weights = [] if weight == 0.5 else [weight]  # the released code's without one
    seeds, probs = get_seed(cam, torch.ones(2, 6, 1, 1), feature, *weights)
    seeds, probs = seeds.flatten(2), probs.flatten(2)
    best = iou.topk(2, 1).values
    clear = best[:, 0] - best[:, 1] > 1e-6  # (B, N); rounding decides the others
    assert clear.double().mean() > 0.99
    assert torch.equal(seeds.argmax(1)[clear], iou.argmax(1)[clear])
    assert (seeds.sum(1) == 1).all()
    assert relative(probs, iou.softmax(1)) < 1e-6
    if dtype == torch.float32:
        assert torch.equal(probs, iou.softmax(1))
        assert torch.equal(seeds.argmax(1), iou.argmax(1))


def test_seeds_take_memory_linear_in_the_number_of_positions():
    """No tensor within has more than N x 1024 numbers."""
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Sizes():
        get_seed(torch.rand(1, 3, 64, 64), torch.ones(1, 3, 1, 1), torch.rand(1, 8, 64, 64))
    assert 0 < largest <= 4096 * 1024


def test_zero_features_and_zero_maps_give_no_nan():
    feature = torch.zeros(1, 3, 2, 2, requires_grad=True)
    seeds, probs = get_seed(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 1, 1), feature)
    loss = consistency_loss(seeds, reactivate(get_prototype(seeds, feature), feature))
    loss.backward()
    for value in (probs, loss, feature.grad):
        assert value.isfinite().all()


def test_consistency_loss_counts_absent_classes_as_zeros():
    cam = torch.zeros(1, 4, 1, 2)
    cam[0, 1] = torch.tensor([1.0, 0.0])
    is_cam = torch.zeros(1, 4, 1, 2)
    is_cam[0, 1] = torch.tensor([0.2, 0.1])  # normalised: 1, 0.5
    assert float(consistency_loss(cam, is_cam)) == pytest.approx(0.5 / 8, rel=1e-3)


def test_parity_forward():
    ref = parity("sipe_forward")
    net = filled(Net(21, None))
    img = pixels(ref["images"])
    stages = net.backbone(img)
    for number in range(1, 5):
        assert relative(stages[number].mean((2, 3)), ref[f"stage{number}_mean"]) < TOLERANCE
    logits, feature, _ = net.forward_features(img)
    assert relative(logits, ref["classifier"]) < TOLERANCE
    assert relative(feature, ref["hierarchical_feature"]) < TOLERANCE
    out = net(img, ref["valid_mask"])
    for name in ("score", "cam", "IS_cam", "probs"):
        assert relative(out[name], ref[name]) < TOLERANCE
    assert torch.equal(out["seeds"], ref["seeds"])
    for name, loss in net.losses(out, ref["label"]).items():
        assert relative(loss, ref[f"loss{name}"]) < TOLERANCE


def test_parity_ipe():
    ref = parity("ipe")
    feature = ref["hierarchical_feature"].requires_grad_()
    seeds, probs = get_seed(ref["norm_cam"], ref["label"], ref["semantic_feature"])
    prototypes = get_prototype(seeds, feature)
    is_cam = reactivate(prototypes, feature)
    (is_cam * ref["output_weight"]).sum().backward()
    assert torch.equal(seeds, ref["seeds"])
    assert relative(probs, ref["probs"]) < TOLERANCE
    assert relative(prototypes, ref["prototypes"]) < TOLERANCE
    assert relative(is_cam, ref["IS_cam"]) < TOLERANCE
    assert relative(feature.grad, ref["grad_hierarchical_feature"]) < TOLERANCE


def test_parity_train_steps():
    ref = parity("sipe_train_steps")
    names = [name.replace("resnet50.", "backbone.") for name in ref["parameter_names"].tolist()]
    net = filled(Net(21, None))
    optimizer = torch.optim.SGD(net.trainable_groups(1.0, 1e-4), momentum=1e-4)
    img = pixels(ref["images"])
    for step in range(4):
        set_learning_rate(optimizer, learning_rate(float(ref["lr"]), step, int(ref["max_step"])))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(float(ref["learning_rate"][step]))
        out = net(img, ref["valid_mask"])
        losses = torch.stack(list(net.losses(out, ref["label"]).values()))
        optimizer.zero_grad()
        losses.sum().backward()
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        assert relative(losses, ref["losses"][step]) < TOLERANCE
        assert relative(norm, ref["grad_norm_before_clip"][step]) < TOLERANCE
        lengths = torch.stack([net.get_parameter(name).detach().norm() for name in names])
        expected = ref["parameter_l2_after_step"][step]
        assert float((lengths / expected - 1).abs().max()) < TOLERANCE


def test_parity_inference():
    ref = parity("cam_inference")
    net = filled(CAM(21, None)).eval()
    image = Image.fromarray(ref["image"].numpy())
    label = F.pad(ref["label"], (1, 0), value=1)
    scaled = [
        torch.from_numpy(np.array(rescale(image, scale))).permute(2, 0, 1)
        for scale in ref["scales"].tolist()
    ]
    with torch.no_grad():
        for number, picture in enumerate(scaled):
            img = normalise(picture)
            cam, is_cam = net(torch.stack([img, img.flip(2)]), label[:, None, None])
            assert relative(cam, ref[f"norm_cam_scale{number}"]) < TOLERANCE
            assert relative(is_cam, ref[f"IS_cam_scale{number}"]) < TOLERANCE
        scaled = [picture[None] for picture in scaled]
        (of_scales,) = infer(net, scaled, label[None].numpy())
        fused = fuse(of_scales, image.size[::-1])[: int(label.sum())]
    assert torch.equal(label.nonzero()[:, 0], ref["keys"])
    assert relative(fused, ref["IS_CAM"]) < TOLERANCE


def test_folded_normalisation_and_channels_last_change_nothing_but_rounding():
    """The maps of one picture after another in float64, and of three at once."""
    net = filled(CAM(5, None, width=4)).double().eval()
    net.competitors = "present"
    labels = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 0, 0, 0, 1]])[..., None, None]
    img = torch.randn(3, 3, 80, 96, dtype=torch.float64)
    pairs = torch.stack([img, img.flip(3)], 1)  # (3, 2, 3, H, W)
    with torch.no_grad():
        plain = [net(pair, label.float()) for pair, label in zip(pairs, labels, strict=True)]
        folded = fold_batch_norm(net).to(memory_format=torch.channels_last)
        batch = pairs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        together = folded.localize(batch, labels.float())
    assert not any(isinstance(module, FixedBatchNorm) for module in folded.modules())
    for one, other in zip(zip(*plain, strict=True), together, strict=True):
        assert relative(other, torch.stack(one)) < 1e-5


def test_only_layer3_layer4_and_heads_learn_and_heads_do_not_teach_the_backbone():
    net = Net(4, pretrained=None, width=4).train()
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    img, mask = torch.randn(2, 3, 64, 64) + 3, torch.ones(2, 4, 4, 4)
    out = net(img, mask)
    out["IS_cam"].sum().backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert net.side1.weight.grad.abs().sum() > 0
    out["score"].sum().backward()
    learning = {p for group in net.trainable_groups(1, 0) for p in group["params"]}
    frozen = tuple(f"backbone.{name}" for name in ("conv1", "bn1", "layer1", "layer2"))
    for name, parameter in net.named_parameters():
        found = {parameter.requires_grad, parameter in learning, parameter.grad is not None}
        assert found == {not name.startswith(frozen)}, name
    torch.testing.assert_close(dict(net.named_buffers()), buffers, rtol=0, atol=0)
    assert torch.equal(out["score"], net.eval()(img, mask)["score"])


@pytest.mark.parametrize("network", [Net, CAM])
def test_trained_networks_come_back(network):
    source = Net(4, None, width=4)
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    for content in ({"net": state, "config": source.config}, state):
        net = restore(network, content, pretrained=None)
        assert net.config == source.config == {"num_classes": 4, "width": 4}
        assert not net.training
        torch.testing.assert_close(net.state_dict(), source.state_dict(), rtol=0, atol=0)
    with pytest.raises(InputError, match="--model"):
        restore(network, ResNet50(4).state_dict(), pretrained=None)


def test_other_readings_change_the_maps(monkeypatch):
    net = CAM(6, pretrained=None, width=4)
    features = [torch.randn(2, d, 12, 12) for d in (5, 768, 128)]  # logits, F_h, x4
    monkeypatch.setattr(net, "forward_features", lambda pair: features)
    label = torch.tensor([1.0, 1, 0, 0, 1, 0])[:, None, None]
    variants = []
    for net.seed_feature in ("hierarchical", "semantic"):
        for net.competitors in ("all", "present"):
            for net.background_weight in (0.5, 1.0):
                variants.append(net(torch.zeros(2, 3, 1, 1), label)[1])
    assert len(torch.stack(variants).unique(dim=0)) == 8


def test_bf16_keeps_prototypes_in_float32():
    net = Net(4, pretrained=None, width=4)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.randn(1, 3, 64, 64), torch.ones(1, 4, 4, 4))
    assert {value.dtype for value in out.values()} == {torch.float32}
