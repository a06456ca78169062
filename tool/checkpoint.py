"""Checkpoints and other files of weights: reading, naming, checking, loading. Nothing is executed.

A file is read once: what :func:`load` returns was decoded from the very bytes whose digest it has.
"""

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from tool.errors import InputError, naming, printable
from tool.reader import DIGITS, Damaged, check, decoding, file_digest, read_bytes
from tool.record import compare_classes
from tool.writer import write_atomic

# Keys under which files in use keep their state dict, ours first; the first one there is taken.
CONTAINERS = (
    *("net", "state_dict", "model", "model_state_dict", "weights", "network", "params"),
    *("teacher", "student", "ema", "model_ema", "state_dict_ema", "module"),
)
DEEPEST = 3  # containers within containers
# What data parallel, compiled, sharded and checkpointed modules put between the parts of a name.
WITHIN = "_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
WRAPPERS = re.compile(rf"^(?:(?:module|{WITHIN})\.)+|(?<=\.)(?:{WITHIN})\.")
# Batch normalisation and averaged models count here; nothing of ours reads it.
COUNTER = ("num_batches_tracked", "n_averaged")
WEIGHTS = ("weight", "bias", "mean", "var", "gamma", "beta")  # endings of what must be a number
VARIANCES = ("running_var", "moving_var")  # ends of the names of stored variances
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 5  # names that a message lists before it says "and N more"
# What a training of ours writes, and what it continues with.
BEGUN = {
    "net": {str: Tensor},
    "step": int,
    "settings": {str: object},
    "class_names": [str],
    "sources": {str: str},
}
OPTIMIZER = {"optimizer": {"state": dict, "param_groups": [{"params": [int]}]}}
LENGTH = 8  # bytes at the beginning of a safetensors file that say how long its header is


class Checkpoint(dict[str, Any]):
    """What a file of weights holds, by name.

    Attributes:
        path: of the file.
        digest: of the bytes that were decoded, as :func:`tool.reader.file_digest` has it.
    """

    def __init__(self, content: dict[str, Any], path: str | Path, digest: str) -> None:
        super().__init__(content)
        self.path, self.digest = Path(path), digest


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint ``{"net": state_dict, ...}``, atomically.

    A path ending ``.safetensors`` gets the tensors of ``net`` under their names, and the other
    entries, which must be plain values then, as JSON in the metadata of the file.
    """
    if Path(path).suffix != ".safetensors":
        write_atomic(path, lambda file: _save_torch(dict(content), file))
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


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint onto the CPU without executing anything in it.

    The file is of PyTorch, or safetensors: such a one gives ``net`` and, by their names, the values
    in its metadata.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    missing = f"There is no checkpoint {path}. Train first, or give another path."
    packed = read_bytes(path, largest=None, missing=missing)
    with decoding(path, "Copy it again, or delete it and train again."):
        is_safetensors = packed[LENGTH : LENGTH + 1] == b"{"
        content = _unpack_safetensors(packed) if is_safetensors else _unpack_torch(packed)
        _check_sizes(content, len(packed))
        if not isinstance(content, dict):
            raise Damaged(f"it holds a {type(content).__name__}, not a dict of tensors")
    return Checkpoint(content, path, hashlib.sha256(packed).hexdigest()[:DIGITS])


def _unpack_safetensors(packed: bytes) -> dict[str, Any]:
    content = {"net": safetensors.torch.load(packed)}
    length = int.from_bytes(packed[:LENGTH], "little")
    metadata = json.loads(packed[LENGTH : LENGTH + length]).get("__metadata__")
    for name, text in (metadata or {}).items():
        try:
            content.setdefault(name, json.loads(text))
        except ValueError:  # metadata of other programs
            content.setdefault(name, text)
    return content


def _unpack_torch(packed: bytes) -> Any:
    if not packed:
        raise Damaged("it is empty")
    if packed.startswith(b"PK\3\4"):
        _check_archive(packed)
    try:
        return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not found:
            raise
        raise InputError(
            f"It holds Python objects beside tensors ({found[1]}), which would execute code when "
            "read. Save its state_dict alone, on a machine where you trust the file."
        ) from error


def _check_archive(packed: bytes) -> None:
    """Compare a zip archive with its checksums, which ``torch.load`` does not look at."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        members = archive.infolist()
        names = {member.filename.rpartition("/")[2] for member in members}
        if "constants.pkl" in names:
            raise InputError("It is a TorchScript program. Save its state_dict() instead.")
        if "data.pkl" not in names:
            raise InputError("It is a zip archive and no checkpoint. Unpack it, and give a file.")
        # torch.save stores members as they are; a compressed one could become any size.
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or sum(member.file_size for member in members) > len(packed):
            raise Damaged("its members announce more than the file holds")
        # torch.serialization.set_crc32_options(False) writes no checksums.
        if any(member.CRC for member in members) and (broken := archive.testzip()):
            raise Damaged(f"{broken} differs from its checksum")


def _check_sizes(content: Any, size: int) -> None:
    """Refuse tensors larger than the file of ``size`` bytes, which would be made of repetitions."""
    todo, seen = [content], set()
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            announced = value.numel() * value.element_size()
            if announced > size and value.layout == torch.strided and not value.is_meta:
                raise Damaged(f"a tensor of shape {tuple(value.shape)} in {size} bytes")
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a file, see :func:`load` and :func:`state_dict_of`."""
    with naming(path):
        return state_dict_of(load(path))


digest = file_digest  # of a file whose content is not needed


def state_dict_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint, or the checkpoint if it is one itself.

    The first of ``CONTAINERS`` that holds tensors is taken; what stands beside tensors and is none
    is left out. An InputError says that there is none, or what :func:`check_weights` says.
    """
    for _ in range(DEEPEST):
        inner = (content[key] for key in CONTAINERS if _holds_tensors(content.get(key)))
        content = next(inner, content)
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state or not all(isinstance(name, str) for name in state):
        raise InputError(f"No state dict found; the file has the keys {some(content)}.")
    check_weights(state)
    return state


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor | dict) for v in value.values())


def check_weights(state: dict[str, Tensor]) -> None:
    """Refuse tensors that would be converted to wrong weights without a word.

    Weights, by any names, are dense, finite, and of a floating dtype of 16 to 64 bits; indices and
    counters may be whole numbers. An InputError names the tensor that is something else.
    """
    for name, value in state.items():
        if value.is_meta:
            reason = "has a shape but no values (meta)"
        elif value.layout != torch.strided:
            reason = f"is not dense ({value.layout})"
        elif value.is_quantized or value.is_complex():
            reason = f"is {value.dtype}, which has no float32 of the same meaning"
        elif value.dtype not in FLOATS:
            if not (value.is_floating_point() or name.endswith(WEIGHTS)):
                continue
            reason = f"is {value.dtype}; weights are float16, bfloat16, float32 or float64"
        elif name.endswith(VARIANCES) and (value == torch.inf).any():
            # Half precision holds variances up to 65,504; an infinite one switches its channel off.
            check_weights({name: value[value != torch.inf]})
            continue
        elif not value.float().isfinite().all():
            reason = "holds NaN or infinity, or more than float32 can hold"
        elif name.endswith(VARIANCES) and (value < 0).any():
            reason = "holds negative variances"
        else:
            continue
        raise InputError(
            f"The tensor {printable(name)} {reason}. Save the weights as finite float32, or give "
            "another file."
        )


def without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under the names that a network has outside DDP, FSDP and torch.compile.

    Where two names become one and their tensors differ, it raises an InputError.
    """
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        other = plain.setdefault(WRAPPERS.sub("", name), value)
        if other is not value and not same_values(other, value):
            raise InputError(f"The tensor {printable(name)} is given twice, with different values.")
    return plain


def same_values(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors become the same weights."""
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def load_weights(
    model: nn.Module, state_dict: dict[str, Tensor], source: str | Path | None = None
) -> None:
    """Copy ``state_dict`` into ``model``, under our names or the published ones.

    The released files name the same tensor several times; a model that knows such aliases has a
    method ``canonical_name(name, shape) -> str``, and ``ignored_name(name) -> bool`` for what its
    file holds beside weights. What data parallel and compiled networks add to names is dropped,
    batch counters are ignored, and any floating dtype is converted.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or two aliases disagree. The
            message names ``source``, the file of the weights. The model is unchanged then.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    rename = getattr(model, "canonical_name", lambda name, shape: name)
    ignored = getattr(model, "ignored_name", lambda name: False)
    given: dict[str, Tensor] = {}
    left_over, contradicting = [], []
    for published, value in state_dict.items():
        if published.endswith(COUNTER):
            continue
        name = published if published in own else WRAPPERS.sub("", published)
        if name not in own and ignored(name):
            continue
        if name not in own:
            name = rename(name, tuple(value.shape))
        if name not in own:
            left_over.append(published)
        elif name in given and not same_values(given[name], value):
            contradicting.append(published)
        else:
            given[name] = value

    missing = [name for name in own if name not in given]
    misshapen = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in given.items()
        if value.shape != own[name].shape
    ]
    whole_numbers = [
        f"{name} {value.dtype}"
        for name, value in given.items()
        if own[name].is_floating_point() and not value.is_floating_point()
    ]
    faults = {
        "missing": missing,
        "left over": left_over,
        "of another shape": misshapen,
        "no floating-point numbers": whole_numbers,
        "given twice with different values": contradicting,
    }
    problems = [f"{what}: {some(names)}" for what, names in faults.items() if names]
    if problems:
        weights = "These weights" if source is None else f"The weights in {source}"
        raise InputError(f"{weights} do not fit {type(model).__name__}; {'; '.join(problems)}.")
    model.load_state_dict(given, strict=False)  # strict is ours above; counters stay


def load_counters(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load the batch counters of batch normalisations, which :func:`load_weights` leaves out."""
    own = model.state_dict()
    counters = {
        name: value
        for name, value in state_dict.items()
        if name.endswith(COUNTER) and name in own and value.shape == own[name].shape
    }
    model.load_state_dict(counters, strict=False)


def class_names_of(content: Checkpoint) -> list[str] | None:
    """Return the class names in a checkpoint, background first; None where it holds none.

    Names that are no list of words raise an InputError.
    """
    with decoding(content.path, "Give another file."):
        check(content, {"class_names?": [str]})
    names = content.get("class_names")
    return None if names is None else list(names)


def check_classes(content: Checkpoint, class_names: Sequence[str]) -> None:
    """Refuse a checkpoint of other class names than the dataset's by an InputError.

    The names count in their order, background first. Files of other projects have none, and pass.
    """
    compare_classes(f"{content.path} was trained", class_names_of(content), class_names)


def check_begun(content: Checkpoint, program: str, finished: bool = True) -> None:
    """Refuse a checkpoint by an InputError that holds no finite training of a program of ours.

    One that is not ``finished`` holds an optimiser to continue with.
    """
    remedy = "Move it away, or name another --session_name."
    with decoding(content.path, remedy):
        check(content, {**BEGUN, "program": {program}} | ({} if finished else OPTIMIZER))
    with naming(content.path):
        check_weights(content["net"])


def some(names: Any, most: int = SHOWN) -> str:
    """Return the first of some names, and how many more there are."""
    names = [printable(str(name))[:100] for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
