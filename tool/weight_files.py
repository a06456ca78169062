"""Files of weights: checkpoints of PyTorch, and safetensors. Nothing in them is executed."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from tool.errors import InputError, reason_of
from tool.files import check_readable, write_atomic

# Reading a file with weights_only=True executes code in older ones.
SAFE_TORCH = (2, 10)


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint ``{"net": state_dict, ...}``, atomically.

    A path ending ``.safetensors`` gets the tensors of ``net`` under their names, and the other
    entries, which must be plain values then, as JSON in the metadata of the file.
    """
    if Path(path).suffix != ".safetensors":
        write_atomic(path, lambda file: _save_torch(content, file))
        return
    tensors = {  # a copy each, because the format has neither strides nor shared memory
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in content["net"].items()
    }
    plain = {name: json.dumps(value) for name, value in content.items() if name != "net"}
    packed = safetensors.torch.save(tensors, {"format": "pt", **plain})
    write_atomic(path, lambda file: file.write(packed))


def _save_torch(content: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch's archive hides why the file could not be written
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing anything in it.

    The file is of PyTorch, or safetensors: such a one gives ``net`` and, by their names, the values
    in its metadata. An InputError says that it is missing, damaged, or holds more than tensors and
    plain values; or that this version of PyTorch is not safe.
    """
    path = Path(path)
    missing = f"There is no checkpoint {path}. Train first, or give another path."
    head = check_readable(path, missing)
    size = path.stat().st_size
    try:
        if path.suffix == ".safetensors" or _is_safetensors(head, size):
            content = _read_safetensors(path)
        else:
            content = _read_torch(path, head, size)
        _check_sizes(content, size)
    except InputError:
        raise
    except Exception as error:  # damaged bytes can raise anything in zip, pickle and torch
        raise InputError(
            f"{path} is not a whole checkpoint ({reason_of(error)}). Copy it again, or train again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of tensors.")
    return content


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        content = {}
        for name, text in (file.metadata() or {}).items():
            try:
                content[name] = json.loads(text)
            except ValueError:  # metadata of other programs
                content[name] = text
        # A copy, because the memory of a tensor would otherwise change with the file.
        names = file.keys()
        return {**content, "net": {name: file.get_tensor(name).clone() for name in names}}


def _read_torch(path: Path, head: bytes, size: int) -> Any:
    release = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if release < SAFE_TORCH:
        raise InputError(
            f"{path} was not read: a checkpoint can execute code in PyTorch {torch.__version__} "
            "(CVE-2025-32434, CVE-2026-24747). Install PyTorch 2.10 or newer."
        )
    if head.startswith(b"PK\3\4"):
        _check_archive(path, size)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not found:
            raise
        raise InputError(
            f"{path} holds Python objects beside tensors ({found[1]}), which would execute code "
            "when read. Save its state_dict alone, on a machine where you trust the file."
        ) from error


def _check_archive(path: Path, size: int) -> None:
    """Compare a zip archive with its checksums, which ``torch.load`` does not look at."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = {member.filename.rpartition("/")[2] for member in members}
        if "constants.pkl" in names:
            raise InputError(f"{path} is a TorchScript program. Save its state_dict() instead.")
        if "data.pkl" not in names:
            raise InputError(
                f"{path} is a zip archive and no checkpoint. Unpack it, and give the file inside."
            )
        # torch.save stores members as they are; a compressed one could become any size.
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > size:
            raise ValueError("its members announce more than the file holds")
        # torch.serialization.set_crc32_options(False) writes no checksums.
        if any(member.CRC for member in members) and (broken := archive.testzip()):
            raise ValueError(f"{broken} differs from its checksum")


def _check_sizes(content: Any, size: int) -> None:
    """Refuse tensors larger than the file of ``size`` bytes, which would be made of repetitions."""
    todo, seen = [content], set()
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            announced = value.numel() * value.element_size()
            if announced > size and value.layout == torch.strided and not value.is_meta:
                raise ValueError(f"a tensor of shape {tuple(value.shape)} in {size} bytes")
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value
