"""DeepLab v2: against the reference's numbers, Pillow, and files in the published names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from net import deeplabv2
from net.deeplabv2 import DeepLabV2_ResNet101_MSC, Head, shrink
from net.inputs import IMAGENET_MEAN, normalise
from net.resnet50 import ResNet50
from net.resnet50_SIPE import Net
from net.segmentation import build, cross_entropy_sum, mean_loss, resize_labels
from tests.fill import filled, filled_state, tensors
from tests.reference import parity, relative
from tool import checkpoint

TOLERANCE = 1e-5
SMALL = (1, 2, 2, 1)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def small(num_classes: int = 3, **options) -> DeepLabV2_ResNet101_MSC:
    return filled(
        DeepLabV2_ResNet101_MSC(num_classes, **{"width": 4, "blocks": SMALL, **options}), prefix=""
    )


def test_outputs_equal_the_reference():
    ref = parity("deeplabv2_resnet101")
    with torch.device("meta"):  # nothing is drawn or stored
        net = DeepLabV2_ResNet101_MSC(21)
    state = filled_state(net, prefix="")
    net = net.to_empty(device="cpu")
    checkpoint.load_weights(net, state)
    x = net.prepare(ref["image"].permute(2, 0, 1)[None])
    assert float(x.double().sum()) == pytest.approx(float(ref["input_checksum"]), rel=1e-9)
    with torch.no_grad():
        outputs = net.train()(x)
    assert len(outputs) == 4
    for number, output in enumerate(outputs):
        assert relative(output, ref[f"train_output{number}"]) < TOLERANCE
    assert relative(outputs[3], ref["logits_max"]) < TOLERANCE


@pytest.mark.parametrize(("size", "pooling"), [((6, 6), False), ((7, 20), True)])
def test_the_head_leaves_out_only_products_with_padding(size, pooling):
    head = Head(5, 3, pooling).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    parts = dict(head.named_children())
    pool = parts.pop("pool", None)
    out, plain = head(x), sum(conv(x) for conv in parts.values())
    if pooling:
        plain = plain + (x.mean((2, 3)) @ pool.weight[..., 0, 0].T + pool.bias)[..., None, None]
    torch.testing.assert_close(out, plain)
    out_gradient = torch.randn_like(out)
    leaves = [x, *head.parameters()]
    for ours, expected in zip(
        torch.autograd.grad(out, leaves, out_gradient),
        torch.autograd.grad(plain, leaves, out_gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)


def test_evaluation_returns_the_maximum_and_normalisation_ignores_the_mode():
    net = small()
    before = tensors(net)
    x = torch.randn(2, 3, 37, 50) * 50
    outputs = net.train()(x)
    fused = net.eval()(x)
    assert torch.equal(outputs[3], fused)
    resized = [F.interpolate(o.double(), fused.shape[2:], mode="bilinear") for o in outputs[:3]]
    assert relative(fused, torch.stack(resized).amax(0)) < 1e-6
    assert all(torch.equal(before[name], value) for name, value in tensors(net).items())


def test_the_fused_maximum_teaches_the_scales_that_it_comes_from():
    net, x = small().train(), torch.randn(1, 3, 37, 50) * 50
    outputs = net(x)
    resized = [net.resize(output, outputs[0].shape[2:]) for output in outputs[:3]]
    weight = torch.randn_like(outputs[3])
    learning = [p for p in net.parameters() if p.requires_grad]
    given = torch.autograd.grad((outputs[3] * weight).sum(), learning, retain_graph=True)
    expected = torch.autograd.grad((torch.stack(resized).amax(0) * weight).sum(), learning)
    for grad, plain in zip(given, expected, strict=True):
        assert plain.any()
        torch.testing.assert_close(grad, plain)


def test_copies_of_the_picture_and_what_learns_are_chosen():
    """Without copies the network is that of the picture's own size; frozen stages take no graph."""
    net, x = small().train(), torch.randn(1, 3, 37, 50) * 50
    alone = DeepLabV2_ResNet101_MSC(**{**net.config, "msc_scales": []}).train()
    alone.load_state_dict(net.state_dict())
    assert torch.equal(alone(x), net(x)[0])
    assert torch.equal(alone.eval()(x), net.base(x))
    alone.freeze(2)
    learning = {n.split(".")[1] for n, p in alone.named_parameters() if p.requires_grad}
    assert learning == {"layer4", "layer5", "aspp"}


def test_small_copies_are_mapped_by_the_scale():
    x = torch.arange(9.0).expand(1, 1, 9, 9)  # columns; 9 * 0.75 = 6.75 becomes 6
    expected = (torch.arange(6) + 0.5) / 0.75 - 0.5
    torch.testing.assert_close(shrink(x, 0.75)[0, 0, 0], expected)


@pytest.mark.parametrize("source", [1, 10, 321])
@pytest.mark.parametrize("target", [1, 6, 21, 41, 500])
def test_labels_shrink_and_grow_as_pillow_does_it(source, target):
    labels = np.random.default_rng(0).integers(0, 256, (source, source + 3)).astype(np.uint8)
    pillow = Image.fromarray(labels).resize((target + 1, target), Image.Resampling.NEAREST)
    ours = resize_labels(torch.from_numpy(labels)[None], (target, target + 1))[0]
    assert np.array_equal(ours.numpy(), np.asarray(pillow))


def test_loss_is_the_sum_of_four_cross_entropies():
    net = small().train()
    outputs = net(torch.randn(2, 3, 41, 41) * 50)
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, 255], (2, 41, 41)))
    expected = 0.0
    for output in outputs:
        log_probability = output.detach().double().log_softmax(1).numpy()
        terms = []
        for picture, logp in zip(labels.numpy().astype(np.uint8), log_probability, strict=True):
            h, w = logp.shape[1:]
            rows = np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.NEAREST))
            terms += [-logp[rows[i, j], i, j] for i, j in np.argwhere(rows != 255)]
        expected += np.mean(terms)
    loss = mean_loss(*net.loss_sums(outputs, labels.to(torch.uint8)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_teaches_nothing_instead_of_nan():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    unsure = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    loss = mean_loss(*cross_entropy_sum(logits, unsure))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_head_starts_small_and_without_bias():
    torch.manual_seed(0)
    head = DeepLabV2_ResNet101_MSC(21, width=8, blocks=SMALL).base.aspp
    for conv in head.children():
        assert 0.0095 < conv.weight.std().item() < 0.0105
        assert not conv.bias.any()


# ---------------------------------------------------------------------------- weights


@pytest.fixture
def narrow(tmp_path):
    """A narrow ResNet-50 of torchvision's layout, a file of its weights, and a picture."""
    resnet, path = filled(ResNet50(width=4)), tmp_path / "narrow.pth"
    classifier = {"fc.weight": torch.zeros(5, 2), "fc.bias": torch.zeros(5)}
    torch.save({**resnet.state_dict(), **classifier}, path)
    return resnet, path, torch.randint(0, 256, (1, 3, 73, 73), dtype=torch.uint8)


def test_a_torchvision_backbone_computes_the_same_from_our_input(narrow):
    resnet, path, picture = narrow
    imagenet = DeepLabV2_ResNet101_MSC.architecture
    assert [imagenet(None), imagenet([3, 4, 6, 3])] == ["resnet101", "resnet50"]
    net, record = build(DeepLabV2_ResNet101_MSC, 3, path)
    config = {"width": 4, "blocks": [3, 4, 6, 3], "stride_on": "conv3x3", "stride": 8}
    expected = {"num_classes": 3, **config, "msc_scales": [0.5, 0.75], "image_pooling": False}
    assert (record["fresh"], net.config) == ("head", expected)
    stages = [value for name, value in tensors(resnet).items() if name.startswith("layer")]
    for ours, theirs in zip(list(tensors(net).values())[5:-8], stages, strict=True):
        assert torch.equal(ours, theirs)  # between stem and head, in the same order
    with torch.no_grad():
        theirs = resnet.bn1(resnet.conv1(normalise(picture)))
        ours = net.base.layer1.conv1(net.prepare(picture))
        inner = (..., slice(2, -2), slice(2, -2))  # windows inside the picture
        assert relative(ours[inner], theirs[inner]) < 1e-5
        assert relative(ours, theirs) < 0.02  # padding: a mean of at most 1.1 grey levels
        stem, layer1, layer2 = resnet.stages()[:3]
        stem = stem(normalise(picture))
        expected = layer2(layer1(stem))
        assert relative(net.base.layer3(net.base.layer2(stem)), expected) < 1e-6


@pytest.mark.parametrize("is_published", [False, True])
def test_from_a_classifier_the_first_logits_are_those_of_its_maps(
    is_published, narrow, monkeypatch, tmp_path
):
    """With one mean colour for both, as that of the padding differs by a grey level."""
    monkeypatch.setattr(deeplabv2, "MEAN_BGR", tuple(255 * m for m in IMAGENET_MEAN[::-1]))
    _, path, picture = narrow
    classifier = filled(Net(4, path)).eval()
    published = {n.replace("backbone.", "resnet50."): v for n, v in tensors(classifier).items()}
    state = published if is_published else tensors(classifier)
    checkpoint.save(tmp_path / "final.pth", {"net": state})
    net, record = build(DeepLabV2_ResNet101_MSC, 4, tmp_path / "final.pth")
    config = {"width": 4, "blocks": [3, 4, 6, 3], "stride_on": "conv3x3", "stride": 16}
    expected = {"num_classes": 4, **config, "msc_scales": [0.5, 0.75], "image_pooling": True}
    assert (record["fresh"], net.config) == ("nothing", expected)
    with torch.no_grad():
        maps = classifier.forward_features(classifier.prepare(picture))[0]
        logits = net.train()(net.prepare(picture))[0]
        alone, _ = build(DeepLabV2_ResNet101_MSC, 4, tmp_path / "final.pth", image_pooling=False)
        of_maps = alone.train()(net.prepare(picture))[0]
    scores = maps.mean((2, 3), keepdim=True)
    for given, expected in ((of_maps, maps), (logits, maps + scores)):
        assert (given[:, 0] == deeplabv2.FIRST_BACKGROUND).all()
        assert relative(given[:, 1:] * deeplabv2.TEMPERATURE, expected) < 1e-4
    others, record = build(DeepLabV2_ResNet101_MSC, 3, tmp_path / "final.pth", stride=8)
    assert (record["fresh"], others.config["stride"]) == ("head", 8)
