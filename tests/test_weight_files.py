"""Files of weights: what is read, and what is refused in a sentence that names file and tensor."""

import copy
import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from net.deeplabv1_resnet38 import DeepLabV1_ResNet38
from net.deeplabv2 import DeepLabV2_ResNet101_MSC
from net.resnet50 import ResNet50, build_backbone
from net.segmentation import build
from tests.fill import filled_state
from tests.mxnet import write_params
from tool import checkpoint
from tool.checkpoint import (
    check_begun,
    check_weights,
    load,
    load_state,
    load_weights,
)
from tool.errors import InputError, naming
from tool.optimizer import load_optimizer
from tool.reader import file_digest

NAMES = ["background", "cat"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


def backbone() -> dict[str, torch.Tensor]:
    return filled_state(ResNet50(2))


def assert_loads(path, expected: dict[str, torch.Tensor]) -> None:
    state = build_backbone(path, None, 2).state_dict()
    for name, value in expected.items():
        assert torch.equal(state[name], value.float()), name


def assert_refused(path, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        build_backbone(path, None, 2)
    assert path.name in str(error.value)


# ------------------------------------------------------------------------- containers and names


@pytest.mark.parametrize("keys", [("net",), ("module",), ("state_dict", "model"), ()])
def test_containers_in_use_are_opened(path, keys):
    content = state = backbone()
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "optimizer": {"state": {}}}
    torch.save({**content, "names": NAMES}, path)
    assert_loads(path, state)


def test_first_container_with_tensors_is_taken(path):
    state = backbone()
    other = {name: value + 1 for name, value in state.items()}
    torch.save({"student": other, "teacher": state, "model": {"arch": "resnet50"}}, path)
    assert_loads(path, state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_names_of_wrapped_networks_and_compiled_parts(path, prefix):
    state = backbone()
    wrapped = {
        prefix + name.replace("layer1.", "layer1._orig_mod."): value
        for name, value in state.items()
    }
    head = {f"{prefix}fc.weight": torch.zeros(1), "n_averaged": torch.tensor(3)}
    torch.save({"state_dict": {**wrapped, **head}}, path)
    assert_loads(path, state)
    net = ResNet50(2)
    load_weights(net, wrapped)
    assert torch.equal(net.conv1.weight, state["conv1.weight"])


def test_a_network_may_have_a_part_of_that_name():
    net, other = (nn.ModuleDict({"module": nn.Linear(1, 1)}) for _ in range(2))
    load_weights(net, other.state_dict())
    assert torch.equal(net["module"].weight, other["module"].weight)


def test_what_is_no_state_dict_is_refused(path):
    within_itself = {"epoch": 3}
    within_itself["net"] = within_itself
    for content in ({"net": {1: torch.zeros(2)}}, {"step": 3}, torch.zeros(3), within_itself):
        path.write_bytes(b"")
        torch.save(content, path)
        with pytest.raises(InputError, match=r"net\.pth"):
            load_state(path)


# ----------------------------------------------------------------------------- values of tensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_floating_dtypes_are_converted(path, dtype):
    state = {name: value.to(dtype) for name, value in backbone().items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert_loads(path, state)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v * torch.nan,
        lambda v: v / 0,
        lambda v: v.double() + 1e300,
        lambda v: v.to(torch.complex64),
        lambda v: v > 0,
        lambda v: v.to(torch.int8),
        lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
        lambda v: v.to_sparse(),
        lambda v: v.to("meta"),
        lambda v: v.to(torch.float8_e4m3fn),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights_are_named(path, change):
    state = backbone()
    state["conv1.weight"] = change(state["conv1.weight"])
    torch.save({"net": state}, path)
    assert_refused(path, r"The tensor conv1\.weight")


def test_an_infinite_variance_of_half_precision_is_one():
    """Backbones saved in float16 have them where a variance exceeds 65,504."""
    variance = torch.tensor([1.0, 70_000.0]).half()
    check_weights({"bn1.running_var": variance})
    for bad in (torch.nan, -1.0, -torch.inf):
        with pytest.raises(InputError, match=r"bn1\.running_var"):
            check_weights({"bn1.running_var": torch.tensor([torch.inf, bad])})
    with pytest.raises(InputError, match=r"bn1\.running_mean"):
        check_weights({"bn1.running_mean": variance})


def test_indices_may_be_whole_numbers_and_weights_may_not():
    check_weights({"weight": torch.ones(1), "path_indices_0": torch.arange(3)})
    with pytest.raises(InputError, match=r"bias torch\.int64"):
        load_weights(nn.Linear(1, 1), {"weight": torch.ones(1, 1), "bias": torch.arange(1)})


def test_values_of_mxnet_are_checked_too(tmp_path):
    write_params(tmp_path / "net.params", {"arg:bn7_gamma": np.float32([np.nan, 1])})
    with pytest.raises(InputError, match=r"net\.params.*bn7_gamma"):
        build(DeepLabV1_ResNet38, 3, tmp_path / "net.params")


# --------------------------------------------------------------------------- weights that misfit


def test_weights_that_do_not_fit_name_their_file(path):
    state = backbone()
    for name, value in (("bn1.running_var", ()), ("bn1.bias", (5, 3)), ("conv1.weight", (1,))):
        torch.save({**state, name: torch.ones(value)}, path)
        assert_refused(path, f"{name}|width")
        with pytest.raises(InputError, match=r"net\.pth"):
            build(DeepLabV2_ResNet101_MSC, 3, path)
    torch.save({**state, "extra": torch.ones(1)}, path)
    assert_refused(path, "left over: extra")
    del state["layer4.0.conv1.weight"]
    torch.save(state, path)
    assert_refused(path, r"missing: layer4\.0\.conv1\.weight")


def test_announced_width_makes_no_network(path):
    """A network of 60,000 channels would take terabytes; the file has a few megabytes."""
    conv1 = torch.zeros(60000, 3, 7, 7, dtype=torch.float16)
    torch.save({"conv1.weight": conv1, "w": torch.zeros(2)}, path)
    assert_refused(path, "ResNet50")
    net, _ = build(DeepLabV2_ResNet101_MSC, 3, "none", width=2, blocks=(1, 1, 1, 1))
    flat = torch.zeros(1 << 20)
    for name, value in (("base.layer1.conv1.conv.weight", conv1), ("base.aspp.c0.weight", flat)):
        torch.save({**net.state_dict(), name: value}, path)
        with pytest.raises(InputError, match=r"net\.pth: "):
            build(DeepLabV2_ResNet101_MSC, 3, path)


# ------------------------------------------------------------------------------------ safetensors


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_safetensors_are_read_by_their_content(tmp_path, name):
    """Metadata of other programs are no JSON."""
    safetensors.torch.save_file(backbone(), tmp_path / name, {"note": "by hand", "net": "3"})
    assert_loads(tmp_path / name, backbone())


def test_safetensors_keep_what_is_said_about_the_weights(tmp_path):
    """Tensors that share memory are written once a name."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    state = {**net.state_dict(), "again": net[0].weight}
    about = {"class_names": NAMES, "settings": {"crop": None, "scales": [0.5]}, "model": "größe"}
    checkpoint.save(tmp_path / "a.safetensors", {"net": state, **about})
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    content = load(tmp_path / "a.safetensors")
    torch.testing.assert_close(content.pop("net"), state, rtol=0, atol=0)
    assert content == about


def test_weights_do_not_change_with_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"net": {"w": torch.ones(1000)}})
    state = load_state(path)
    with open(path, "r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4000))
    assert torch.equal(state["w"], torch.ones(1000))


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        [],
    ],
)
def test_hostile_safetensors_cost_no_memory(path, header):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert_refused_without_memory(path)


def assert_refused_without_memory(path) -> None:
    tracemalloc.start()
    with pytest.raises(InputError, match=path.name):
        load_state(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


# --------------------------------------------------------------------------- PyTorch's own format


def test_a_changed_bit_of_a_weight_is_found(path):
    """torch.load itself gives the changed weight without a word."""
    torch.save({"w": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 777.0)) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.pth .*data/0"):
        load(path)


def test_files_without_checksums_are_read(path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    torch.save({"w": torch.ones(1)}, path)
    torch.serialization.set_crc32_options(before)
    assert load_state(path).keys() == {"w"}


HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x10"  # 2^44 in a pickle


@pytest.mark.parametrize(
    ("before", "after", "compression"),
    [
        (b"K\x0a\x85q\x08K\x01", HUGE + b"\x85q\x08K\x00", zipfile.ZIP_STORED),
        (b"K\x0atq\x07Q", HUGE + b"tq\x07Q", zipfile.ZIP_STORED),
        (b".", b"." + bytes(64 << 20), zipfile.ZIP_DEFLATED),
    ],
    ids=["repetitions", "storage", "zip bomb"],
)
def test_what_is_larger_than_the_file_is_not_made(path, before, after, compression):
    """A tensor of stride 0, a storage, and what is packed."""
    torch.save({"w": torch.arange(10.0)}, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, inside in members.items():
            changed = inside.replace(before, after) if name.endswith("data.pkl") else inside
            assert changed != inside or not name.endswith("data.pkl")
            new.writestr(name, changed)
    assert_refused_without_memory(path)


def test_objects_in_a_checkpoint_are_named(path):
    torch.save({"net": {"w": torch.ones(1)}, "best": np.float64(0.5)}, path)
    with pytest.raises(InputError, match=r"net\.pth.*multiarray\.scalar.*execute code"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"noise", b"\x80\x02garbage", b"PK\3\4garbage"])
def test_noise_is_not_said_to_execute_code(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.pth") as error:
        load(path)
    assert "execute" not in str(error.value)


def test_programs_are_no_checkpoints(path):
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    with pytest.raises(InputError, match=r"net\.pth .*TorchScript"):
        load(path)


def test_a_source_is_named_once():
    for text in ("wrong", "a.pth: wrong"):
        with pytest.raises(InputError, match=r"^a\.pth: wrong$"), naming("a.pth"):
            raise InputError(text)


# ------------------------------------------------------------------------- trainings that go on


def begun(**changes) -> checkpoint.Checkpoint:
    net = nn.Linear(1, 1)
    content = {
        "net": net.state_dict(),
        "optimizer": torch.optim.SGD(net.parameters(), 0.1, momentum=0.9).state_dict(),
        "step": 3,
        "program": "train_irn",
        "settings": {"lr": 0.1, "scales": [1, 2], "crop": None},
        "class_names": NAMES,
        "sources": {"pretrained": "none"},
        "curves": [{"step": 0, "CLS": 0.5}],
    }
    content |= changes
    known = {name: value for name, value in content.items() if value is not None}
    return checkpoint.Checkpoint(known, "net.pth", "")


def test_a_checkpoint_to_continue_from(path):
    torch.save(dict(begun(net=OrderedDict(nn.Linear(1, 1).state_dict()))), path)
    check_begun(load(path), "train_irn", finished=False)
    check_begun(begun(optimizer=None, curves=None), "train_irn")


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in begun()),
        {"program": "train_seg"},
    ],
)
def test_a_checkpoint_that_is_none_of_ours_is_refused(change):
    with pytest.raises(InputError, match=r"net\.pth"):
        check_begun(begun(**change), "train_irn", finished=False)


def test_momenta_of_another_network_are_refused():
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    load_optimizer(optimizer, state)
    state["param_groups"][0]["params"] = [0]
    with pytest.raises(InputError, match="optimizer"):
        load_optimizer(optimizer, state)


def test_counters_of_another_shape_are_left():
    net = nn.BatchNorm2d(1)
    for counter in (torch.tensor(5), torch.zeros(3)):
        load_weights(net, {**net.state_dict(), "num_batches_tracked": counter})
    assert int(net.num_batches_tracked) == 5


def test_the_digest_is_that_of_the_bytes_that_were_decoded(path, monkeypatch):
    """A file that is replaced while it is read changes neither."""
    torch.save({"w": torch.ones(1)}, path)
    expected, decode = file_digest(path), checkpoint._unpack_torch

    def replaced(packed: bytes) -> dict:
        torch.save({"w": torch.zeros(1)}, path)
        return decode(packed)

    monkeypatch.setattr(checkpoint, "_unpack_torch", replaced)
    content = load(path)
    assert content.digest == expected != file_digest(path)
    assert (content.path, content["w"]) == (path, 1)
