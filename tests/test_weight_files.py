"""Files of weights: what is read, and what is refused in a sentence that names file and tensor."""

import copy
import io
import json
import os
import pickle
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
from net.resnet50 import ResNet50, backbone_width, build_backbone
from net.segmentation import build
from net.weights import read_pretrained
from tests.fill import filled_state
from tests.mxnet import write_params
from tool import checkpoint
from tool.checkpoint import (
    check_begun,
    check_classes,
    check_weights,
    load,
    load_state,
    load_weights,
)
from tool.errors import InputError, naming
from tool.optimizer import load_optimizer

NAMES = ["background", "cat"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


def backbone() -> dict[str, torch.Tensor]:
    return filled_state(ResNet50(2))


def assert_loads(path, expected: dict[str, torch.Tensor]) -> None:
    for name, value in build_backbone(path, None, 2).state_dict().items():
        if not name.endswith(checkpoint.COUNTER):
            assert torch.equal(value, expected[name].float()), name


# ------------------------------------------------------------------------- containers and names


@pytest.mark.parametrize(
    "keys", [*((key,) for key in checkpoint.CONTAINERS), ("state_dict", "model"), ()]
)
def test_containers_in_use_are_opened(path, keys):
    content = state = backbone()
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, path)
    assert_loads(path, state)


def test_first_container_with_tensors_is_taken(path):
    state = backbone()
    other = {name: value + 1 for name, value in state.items()}
    torch.save({"student": other, "teacher": state, "model": {"arch": "resnet50"}}, path)
    assert_loads(path, state)


def test_what_stands_beside_tensors_is_left_out(path):
    state = backbone()
    torch.save({**state, "epoch": 3, "args": {"lr": 0.1}, "names": NAMES}, path)
    assert_loads(path, state)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_names_of_wrapped_networks(path, prefix):
    state = backbone()
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    head = {f"{prefix}fc.weight": torch.zeros(1), "n_averaged": torch.tensor(3)}
    torch.save({"state_dict": {**wrapped, **head}}, path)
    assert_loads(path, state)
    net = ResNet50(2)
    load_weights(net, wrapped)
    assert torch.equal(net.conv1.weight, state["conv1.weight"])


def test_names_of_compiled_parts(path):
    state = backbone()
    wrapped = {name.replace("layer1.", "layer1._orig_mod."): v for name, v in state.items()}
    torch.save(wrapped, path)
    assert_loads(path, state)


def test_a_network_may_have_a_part_of_that_name(path):
    net = nn.ModuleDict({"module": nn.Linear(1, 1), "_orig_mod": nn.Linear(1, 1)})
    other = nn.ModuleDict({"module": nn.Linear(1, 1), "_orig_mod": nn.Linear(1, 1)})
    load_weights(net, other.state_dict())
    assert torch.equal(net["module"].weight, other["module"].weight)
    assert torch.equal(net["_orig_mod"].weight, other["_orig_mod"].weight)


@pytest.mark.parametrize("network", [DeepLabV1_ResNet38, DeepLabV2_ResNet101_MSC])
def test_two_names_for_one_tensor_must_agree(path, network):
    net, _ = build(network, 3, "none", width=2, blocks=(1, 1, 1, 1))
    state = net.state_dict()
    torch.save({**state, **{f"module.{n}": v.half().float() for n, v in state.items()}}, path)
    with pytest.raises(InputError, match=r"net\.pth: The tensor module\.\S+ is given twice"):
        build(network, 3, path)
    torch.save({**state, **{f"module.{n}": v.double() for n, v in state.items()}}, path)
    build(network, 3, path)


def test_names_that_are_no_words(path):
    torch.save({"net": {1: torch.zeros(2)}}, path)
    with pytest.raises(InputError, match=r"net\.pth: No state dict found; .* keys 1\."):
        load_state(path)


def test_a_container_within_itself_ends(path):
    content = {"epoch": 3}
    content["net"] = content
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match=r"net\.pth"):
        load_state(path)


# ----------------------------------------------------------------------------- values of tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_dtypes_are_converted(path, dtype):
    state = {name: value.to(dtype) for name, value in backbone().items()}
    torch.save(state, path)
    assert_loads(path, state)


def quantised(value: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v * torch.nan, "holds NaN"),
        (lambda v: v / 0, "holds NaN or infinity"),
        (lambda v: v.double() + 1e300, "more than float32 can hold"),
        (lambda v: v.to(torch.complex64), "is torch.complex64"),
        (lambda v: v > 0, "is torch.bool"),
        (lambda v: v.to(torch.int8), "is torch.int8"),
        (lambda v: v.long(), "is torch.int64"),
        (quantised, "is torch.qint8"),
        (lambda v: v.to_sparse(), "is not dense"),
        (lambda v: v.to("meta"), "no values"),
        (lambda v: v.to(torch.float8_e4m3fn), "is torch.float8_e4m3fn"),
    ],
)
@pytest.mark.parametrize("name", ["layer2.0.conv2.weight", "conv1.weight"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights_are_named(path, change, reason, name):
    state = backbone()
    state[name] = change(state[name])
    torch.save({"net": state}, path)
    named = rf"net\.pth.*The tensor {name}.*{reason}"
    for read in (load_state, read_pretrained):
        with pytest.raises(InputError, match=named):
            read(path)
    with pytest.raises(InputError, match=named):
        build(DeepLabV2_ResNet101_MSC, 3, path)


def test_negative_variances_are_named(path):
    torch.save({**backbone(), "bn1.running_var": torch.tensor([1.0, -1.0])}, path)
    with pytest.raises(InputError, match=r"net\.pth: The tensor bn1\.running_var holds negative"):
        read_pretrained(path)


def test_indices_beside_weights_may_be_whole_numbers(path):
    torch.save({"w.weight": torch.ones(1), "path_indices_0": torch.arange(3)}, path)
    assert set(load_state(path)) == {"w.weight", "path_indices_0"}


def test_whole_numbers_in_the_place_of_weights():
    net = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"no floating-point numbers: bias torch\.int64"):
        load_weights(net, {"weight": torch.ones(1, 1), "bias": torch.ones(1, dtype=torch.int64)})


@pytest.mark.parametrize("name", ["arg:bn7_gamma", "arg:conv1a_weight"])
def test_values_of_mxnet_are_checked_too(tmp_path, name):
    for values, reason in (([np.nan, 1], rf"{name} holds NaN"), ([1, 2], "")):
        array = np.array(values, np.float32 if reason else np.int8)
        write_params(tmp_path / "net.params", {name: array})
        with pytest.raises(InputError, match=rf"net\.params.*{reason}"):
            build(DeepLabV1_ResNet38, 3, tmp_path / "net.params")


def test_mxnet_names_in_another_network_are_named(tmp_path):
    path = tmp_path / "net.params"
    write_params(path, {"conv1.weight": np.ones((2, 3, 7, 7), np.float32)})
    with pytest.raises(InputError, match=r"net\.params"):
        build_backbone(path, None, 2)
    with pytest.raises(InputError, match=r"net\.params"):
        build(DeepLabV2_ResNet101_MSC, 3, path)


# --------------------------------------------------------------------------- weights that misfit


def test_weights_that_do_not_fit_name_their_file(path):
    state = backbone()
    del state["layer4.0.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"net\.pth.*ResNet50; missing"):
        build_backbone(path, None, 2)
    torch.save(backbone(), path)
    with pytest.raises(InputError, match=r"net\.pth.*of another shape"):
        build_backbone(path, 4, 2)
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"net\.pth.*no conv1\.weight"):
        build_backbone(path, None, 2)


def test_announced_width_makes_no_network(path):
    """A network of 60,000 channels would take terabytes; the file has a few megabytes."""
    conv1 = torch.zeros(60000, 3, 7, 7, dtype=torch.float16)
    torch.save({"conv1.weight": conv1, "w": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"net\.pth.*ResNet-50"):
        build_backbone(path, None, 2)
    state = build(DeepLabV2_ResNet101_MSC, 3, "none", width=2, blocks=(1, 1, 1, 1))[0].state_dict()
    conv = {"base.layer1.conv1.conv.weight": conv1}
    torch.save({**state, **conv}, path)
    with pytest.raises(InputError, match=r"net\.pth: .*not those of a"):
        build(DeepLabV2_ResNet101_MSC, 3, path)
    torch.save({**state, "base.aspp.c0.weight": torch.zeros(1 << 20)}, path)
    with pytest.raises(InputError, match=r"net\.pth: "):
        build(DeepLabV2_ResNet101_MSC, 3, path)


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_mean", "bn1.running_var"])
@pytest.mark.parametrize("shape", [(), (1,), (5, 3)])
def test_odd_shapes_at_the_front_are_named(path, name, shape):
    torch.save({**backbone(), name: torch.ones(shape)}, path)
    with pytest.raises(InputError, match=r"net\.pth"):
        build_backbone(path, None, 2)
    with pytest.raises(InputError, match=r"net\.pth"):
        build(DeepLabV2_ResNet101_MSC, 3, path)
    assert backbone_width(backbone()) == 2


# ------------------------------------------------------------------------------------ safetensors


def test_safetensors_are_read_by_ending_and_by_content(tmp_path):
    state = backbone()
    for name in ("net.safetensors", "net.pth", "weights"):
        safetensors.torch.save_file(state, tmp_path / name)
        assert_loads(tmp_path / name, state)


def test_safetensors_keep_what_is_said_about_the_weights(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    about = {
        "class_names": NAMES,
        "settings": {"lr": 0.1, "crop": None, "scales": [0.5, 1.0]},
        "step": 7,
        "model": "größe",
    }
    checkpoint.save(tmp_path / "a.safetensors", {"net": net.state_dict(), **about})
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    content = load(tmp_path / "a.safetensors")
    read = content.pop("net")
    assert content == {**about, "format": "pt"}
    assert list(read)
    assert all(torch.equal(read[n], v) for n, v in net.state_dict().items())
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == NAMES
    check_classes(content, NAMES)


def test_metadata_of_other_programs_stay_words(tmp_path):
    tensors = {"w": torch.ones(1)}
    safetensors.torch.save_file(
        tensors, tmp_path / "a.safetensors", {"note": "by hand", "net": "?"}
    )
    content = load(tmp_path / "a.safetensors")
    assert content["note"] == "by hand"
    assert load_state(tmp_path / "a.safetensors").keys() == {"w"}


def test_shared_tensors_are_written_once_a_name(tmp_path):
    shared = torch.arange(3.0)
    checkpoint.save(tmp_path / "a.safetensors", {"net": {"a": shared, "b": shared}})
    assert torch.equal(load_state(tmp_path / "a.safetensors")["b"], shared)


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
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        [],
    ],
)
def test_hostile_safetensors_cost_no_memory(tmp_path, header):
    path = tmp_path / "a.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert_refused_without_memory(path)


def assert_refused_without_memory(path, match: str = "is damaged") -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=match) as error:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.name in str(error.value)
    assert peak < 8 << 20


# --------------------------------------------------------------------------- PyTorch's own format


def test_a_changed_bit_of_a_weight_is_found(path):
    """torch.load itself gives the changed weight without a word."""
    torch.save({"w": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 777.0)) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.pth .*data/0 differs from its checksum"):
        load(path)


def test_files_without_checksums_are_read(path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(1)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_state(path).keys() == {"w"}


def rewritten(path, change, compression: int = zipfile.ZIP_STORED) -> None:
    """Change data.pkl in a checkpoint, and give the archive new checksums."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, inside in members.items():
            new.writestr(name, change(inside) if name.endswith("data.pkl") else inside)


def test_a_tensor_of_repetitions_is_not_unrolled(path):
    torch.save({"w": torch.arange(10.0)}, path)
    announced = b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85q\x08K\x00"  # 2^44 elements, stride 0
    rewritten(path, lambda pkl: pkl.replace(b"K\x0a\x85q\x08K\x01", announced))
    assert_refused_without_memory(path, r"a tensor of shape \(17592186044416,\)")


def test_a_storage_larger_than_the_file_is_not_allocated(path):
    torch.save({"w": torch.arange(10.0)}, path)
    announced = b"\x8a\x06\x00\x00\x00\x00\x00\x10tq\x07Q"
    rewritten(path, lambda pkl: pkl.replace(b"K\x0atq\x07Q", announced))
    assert_refused_without_memory(path)


def test_a_zip_bomb_is_not_unpacked(path):
    torch.save({"w": torch.arange(10.0)}, path)
    rewritten(path, lambda pkl: pkl + bytes(64 << 20), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert_refused_without_memory(path, "announce more than the file holds")


def test_legacy_files_are_read(path):
    state = backbone()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert_loads(path, state)


def test_objects_in_a_checkpoint_are_named(path):
    torch.save({"net": {"w": torch.ones(1)}, "best": np.float64(0.5)}, path)
    with pytest.raises(InputError, match=r"net\.pth.*multiarray\.scalar.*execute code"):
        load(path)


def test_noise_is_not_said_to_execute_code(path):
    for content in (b"not a checkpoint", b"\x80\x02garbage", bytes(100), b"PK\3\4" + bytes(99)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"net\.pth is damaged") as error:
            load(path)
        assert "execute" not in str(error.value)


# ------------------------------------------------------------------ what is no checkpoint at all

STAND_INS = {
    "web page": b"\n\n<!DOCTYPE html><html>Sign in to continue</html>",
    "a web page": b'\xef\xbb\xbf<html lang="en">',
    "git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "packed by gzip": b"\x1f\x8b\x08\0 and so on",
    "tar archive": b"name".ljust(257, b"\0") + b"ustar\0",
    "is empty": b"",
}


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.params"])
def test_what_stands_in_the_place_of_a_file_is_said(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(STAND_INS[kind])
    with pytest.raises(InputError, match=rf"{name} is .*{kind.removeprefix('is ')}") as error:
        read_pretrained(path)
    assert "execute" not in str(error.value)


def test_folders_other_archives_and_programs_are_said(path):
    with pytest.raises(InputError, match="is a folder"):
        load(path.parent)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("resnet50.pth", "x")
    with pytest.raises(InputError, match=r"net\.pth: It is a zip archive .*Unpack it"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:  # the members of torch.jit.save
        archive.writestr("net/data.pkl", "x")
        archive.writestr("net/constants.pkl", "x")
    with pytest.raises(InputError, match=r"net\.pth: It is a TorchScript program"):
        load(path)


def test_a_forbidden_file_is_not_called_damaged(path, monkeypatch):
    torch.save({"w": torch.ones(1)}, path)

    def forbid(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbid)
    with pytest.raises(InputError, match=r"net\.pth cannot be read: Permission denied\.") as no:
        read_pretrained(path)
    assert "damaged" not in str(no.value)


def test_a_name_too_long_for_the_disk_is_missing():
    with pytest.raises(InputError, match="a cannot be read: File name too long"):
        load("a" * 5000)


def test_a_source_is_named_once():
    with pytest.raises(InputError, match=r"^a\.pth: wrong$"), naming("a.pth"):
        raise InputError("wrong")
    with pytest.raises(InputError, match=r"^a\.pth is wrong$"), naming("a.pth"):
        raise InputError("a.pth is wrong")


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
    }
    content |= changes
    known = {name: value for name, value in content.items() if value is not None}
    return checkpoint.Checkpoint(known, "net.pth", "")


def test_a_checkpoint_to_continue_from(path):
    torch.save(dict(begun(net=OrderedDict(nn.Linear(1, 1).state_dict()))), path)
    check_begun(load(path), "train_irn", finished=False)
    check_begun(begun(optimizer=None), "train_irn")


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in begun()),
        {"net": {"w": 3}},
        {"net": {"w": torch.tensor([torch.nan])}},
        {"step": 3.0},
        {"program": "train_seg"},
        {"settings": "lr"},
        {"class_names": "cat"},
        {"sources": {"pretrained": 3}},
        {"optimizer": {}},
        {"optimizer": {"state": {}, "param_groups": [{"lr": 1}]}},
    ],
)
def test_a_checkpoint_that_is_none_of_ours_is_refused(change):
    with pytest.raises(InputError, match=r"net\.pth"):
        check_begun(begun(**change), "train_irn", finished=False)


@pytest.mark.parametrize("change", ["shape", "place", "nan"])
def test_momenta_of_another_network_are_refused(change):
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    load_optimizer(optimizer, state)
    if change == "place":
        state["param_groups"][0]["params"] = [0]
    else:
        wrong = {"shape": torch.ones(3), "nan": torch.full((2,), torch.nan)}[change]
        state["state"][1]["momentum_buffer"] = wrong
    with pytest.raises(InputError, match="optimizer"):
        load_optimizer(optimizer, state)


@pytest.mark.parametrize("names", ["cat", 3, [1, 2], torch.ones(2), {"a": 1}])
def test_class_names_are_a_list_of_words(names):
    content = checkpoint.Checkpoint({"class_names": names}, "a.pth", "")
    with pytest.raises(InputError, match=r"a\.pth .*class_names"):
        check_classes(content, NAMES)


def test_counters_of_another_shape_are_left():
    net = nn.BatchNorm2d(1)
    checkpoint.load_counters(net, {"num_batches_tracked": torch.zeros(3)})
    checkpoint.load_counters(net, {"num_batches_tracked": torch.tensor(5)})
    assert int(net.num_batches_tracked) == 5


def test_an_infinite_variance_of_half_precision_is_one(tmp_path):
    """Backbones saved in float16 have them where a variance exceeds 65,504."""
    variance = torch.tensor([1.0, 70_000.0]).half()
    check_weights({"bn1.running_var": variance})
    for bad in (torch.nan, -1.0, -torch.inf):
        with pytest.raises(InputError, match=r"bn1\.running_var"):
            check_weights({"bn1.running_var": torch.tensor([torch.inf, bad])})
    with pytest.raises(InputError, match=r"bn1\.running_mean"):
        check_weights({"bn1.running_mean": variance})


def test_the_digest_is_that_of_the_bytes_that_were_decoded(path, monkeypatch):
    """A file that is replaced while it is read changes neither."""
    torch.save({"w": torch.ones(1)}, path)
    expected, decode = checkpoint.digest(path), checkpoint._unpack_torch

    def replaced(packed: bytes) -> dict:
        torch.save({"w": torch.zeros(1)}, path)
        return decode(packed)

    monkeypatch.setattr(checkpoint, "_unpack_torch", replaced)
    content = load(path)
    assert content.digest == expected != checkpoint.digest(path)
    assert content.path == path
    assert content["w"] == 1
