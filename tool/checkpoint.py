"""Checkpoints and other files of weights: reading, naming, checking, loading. Nothing is executed.

A file is read once: what :func:`load` returns was decoded from the very bytes whose digest it has.
"""

import hashlib
import io
import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tool import mxnet_params
from tool.errors import InputError, naming, printable
from tool.reader import DIGITS, Damaged, check, decoding, read_bytes, regular
from tool.record import compare_classes
from tool.writer import write_atomic

# Keys under which files in use keep their state dict, ours first; the first one there is taken.
CONTAINERS = (
    *("net", "state_dict", "model", "model_state_dict", "weights", "network", "params"),
    *("teacher", "student", "ema", "model_ema", "state_dict_ema", "module"),
)
DEEPEST = 3  # containers within containers
# What data parallel and compiled modules put before and between the parts of a name.
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")
# Batch normalisation and averaged models count here; nothing of ours reads it.
COUNTER = ("num_batches_tracked", "n_averaged")
WEIGHTS = ("weight", "bias", "mean", "var", "gamma", "beta")  # endings of what must be a number
VARIANCES = ("running_var", "moving_var")  # ends of the names of stored variances
SHOWN = 5  # names that a message lists before it says "and N more"
# What a training of ours writes, and what it continues with.
BEGUN = {"net": dict, "step": int, "settings": dict, "class_names": [str], "sources": dict}
GOES_ON = {"optimizer": dict, "curves": list}
# Patterns in published names of tensors, and what stands there in ours.
Aliases = Iterable[tuple[str, str | Callable[[re.Match], str]]]
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
    """Write a checkpoint ``{"net": state_dict, ...}``, atomically, for a machine without a GPU too.

    A path ending ``.safetensors`` gets the tensors of ``net`` under their names, and the other
    entries, which must be plain values then, as JSON in the metadata of the file.
    """
    if Path(path).suffix == ".safetensors":
        tensors = {  # a copy each, because the format has neither strides nor shared memory
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in content["net"].items()
        }
        plain = {name: json.dumps(value) for name, value in content.items() if name != "net"}
        packed = safetensors.torch.save(tensors, {"format": "pt", **plain})
    else:
        buffer = io.BytesIO()
        torch.save(tree_map_only(Tensor, Tensor.cpu, dict(content)), buffer)
        packed = buffer.getbuffer()
    write_atomic(path, lambda file: file.write(packed))


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint onto the CPU without executing anything in it.

    The file is of PyTorch, MXNet, or safetensors: such a one gives ``net`` and, by their names, the
    values in its metadata.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    missing = f"There is no checkpoint {path}. Train first, or give another path."
    packed = read_bytes(regular(path, missing), math.inf)
    with decoding(path, "Copy it again, or delete it and train again."):
        if packed.startswith(mxnet_params.BEGINNING):
            arrays = mxnet_params.unpack(packed)
            content = {name: torch.from_numpy(array) for name, array in arrays.items()}
        elif packed[LENGTH : LENGTH + 1] == b"{":
            content = _unpack_safetensors(packed)
        else:
            content = _unpack_torch(packed)
        if not isinstance(content, dict):
            raise Damaged(f"it holds a {type(content).__name__}, not a dict of tensors")
    return Checkpoint(content, path, hashlib.sha256(packed).hexdigest()[:DIGITS])


def _unpack_safetensors(packed: bytes) -> dict[str, Any]:
    content = {"net": safetensors.torch.load(packed)}
    length = int.from_bytes(packed[:LENGTH], "little")
    metadata = json.loads(packed[LENGTH : LENGTH + length]).get("__metadata__")
    for name, text in (metadata or {}).items():
        with suppress(ValueError):  # what other programs note there may be no JSON
            content.setdefault(name, json.loads(text))
    return content


def _unpack_torch(packed: bytes) -> Any:
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
        # torch.save stores members as they are; a compressed one could become any size.
        if sum(member.file_size for member in members) > len(packed):
            raise Damaged("its members announce more than the file holds")
        # torch.serialization.set_crc32_options(False) writes no checksums.
        if any(member.CRC for member in members) and (broken := archive.testzip()):
            raise Damaged(f"{broken} differs from its checksum")


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a file, see :func:`load` and :func:`state_dict_of`."""
    with naming(path):
        return state_dict_of(load(path))


def state_dict_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint, or the checkpoint if it is one itself.

    The first of ``CONTAINERS`` that holds tensors is taken; what stands beside tensors and is none
    is left out. The names are those that a network has outside DDP, FSDP and torch.compile. An
    InputError says that there is none, or what :func:`check_weights` says.
    """
    for _ in range(DEEPEST):
        inner = (content[key] for key in CONTAINERS if _holds_tensors(content.get(key)))
        content = next(inner, content)
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state or not all(isinstance(name, str) for name in state):
        raise InputError(f"No state dict found; the file has the keys {some(content)}.")
    check_weights(state)
    return {WRAPPERS.sub("", name): value for name, value in state.items()}


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor | dict) for v in value.values())


def check_weights(state: dict[str, Tensor]) -> None:
    """Refuse tensors that would be converted to wrong weights without a word.

    Weights, by any names, are dense, finite, and of a floating dtype of 16 to 64 bits; indices and
    counters may be whole numbers. An InputError names the tensor that is something else.
    """
    for name, value in state.items():
        if not _is_weight(name, value):
            raise InputError(
                f"The tensor {printable(name)} ({value.dtype}, {value.layout}) holds no weights: "
                "those are dense and finite, float16 to float64, and variances not negative. Save "
                "them so, or give another file."
            )


def _is_weight(name: str, value: Tensor) -> bool:
    if value.is_meta or value.layout != torch.strided:
        return False
    if not value.is_floating_point():
        return not name.endswith(WEIGHTS)
    # A tensor of repetitions would take more memory than its file.
    if value.itemsize < 2 or value.nbytes > value.untyped_storage().nbytes():
        return False
    if name.endswith(VARIANCES):
        # Half precision holds variances up to 65,504; an infinite one switches its channel off.
        return bool((value >= 0).all())
    return bool(value.float().isfinite().all())


def same_values(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors become the same weights."""
    if one is other:
        return True
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def load_weights(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Copy ``state_dict`` into ``model``, under our names or the published ones.

    The released files name the same tensor several times. A model that knows such names has
    ``aliases`` for :func:`renamed`, and ``ignored``, the beginnings of the names of what its file
    holds beside weights. What data parallel and compiled networks add to names is dropped, any
    floating dtype is converted, and batch counters are taken where they fit.

    Raises:
        InputError: a tensor is missing, left over, of another shape, no floating-point numbers, or
            two aliases disagree. The model is unchanged then.
    """
    own = model.state_dict()
    aliases, ignored = getattr(model, "aliases", ()), getattr(model, "ignored", ())
    given: dict[str, Tensor] = {}
    unfit = []
    for published, value in state_dict.items():
        name = published if published in own else WRAPPERS.sub("", published)
        if name not in own:
            if name.startswith(ignored):
                continue
            name = renamed(name, aliases)
        place = own.get(name)
        if fits(value, place) and same_values(given.get(name, value), value):
            given[name] = value
        elif not published.endswith(COUNTER):
            expected = "nothing" if place is None else tuple(place.shape)
            unfit.append(f"{published} {value.dtype} {tuple(value.shape)} instead of {expected}")
    missing = [name for name in own if name not in given and not name.endswith(COUNTER)]
    if missing or unfit:
        raise InputError(
            f"These weights do not fit {type(model).__name__}; missing: {some(missing)}; unfit, "
            f"contradicting or left over: {some(unfit)}."
        )
    model.load_state_dict(given, strict=False)  # strict is ours above; counters may be missing


def renamed(name: str, aliases: Aliases) -> str:
    """Return our name of a tensor: every pattern that it holds is replaced, in their order."""
    for pattern, ours in aliases:
        name = re.sub(pattern, ours, name)
    return name


def fits(value: Tensor, place: Tensor | None) -> bool:
    """Return whether a tensor of a file may stand in a place of a network, if there is one."""
    if place is None or value.shape != place.shape:
        return False
    return value.is_floating_point() or not place.is_floating_point()


def class_names_of(content: Checkpoint) -> list[str] | None:
    """Return the class names in a checkpoint, background first; None where it holds none.

    Names that are no list of words raise an InputError.
    """
    with decoding(content.path, "Give another file."):
        check(content, {"class_names?": [str]})
    return content.get("class_names")


def check_classes(content: Checkpoint, class_names: Sequence[str]) -> None:
    """Refuse a checkpoint of other class names than the dataset's by an InputError.

    The names count in their order, background first. Files of other projects have none, and pass.
    """
    compare_classes(f"{content.path} was trained", class_names_of(content), class_names)


def check_begun(content: Checkpoint, program: str, finished: bool = True) -> None:
    """Refuse a checkpoint by an InputError that no training of this program wrote.

    One that is not ``finished`` holds an optimiser and curves to continue with.
    """
    schema = {"program": {program}, **BEGUN}
    with decoding(content.path, "Move it away, or name another --session_name."):
        check(content, schema if finished else schema | GOES_ON)


def some(names: Any, most: int = SHOWN) -> str:
    """Return the first of some names, and how many more there are; "none" where there is none."""
    names = [printable(str(name))[:100] for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}" or "none"
