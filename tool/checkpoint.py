"""Reading, writing and naming of weights."""

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tool.errors import InputError
from tool.files import write_atomic

# Keys under which files in use keep their state dict, ours first.
CONTAINERS = ("net", "state_dict", "model")
# Batch normalisation counts batches here; nothing of ours reads it.
COUNTER = "num_batches_tracked"
SHOWN = 5  # names that a message lists before it says "and N more"


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint ``{"net": state_dict, ...}``, atomically."""
    write_atomic(path, lambda file: torch.save(content, file))


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing anything in it.

    Raises:
        InputError: the file is missing, truncated, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}. Train first, or give another path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower():
            raise InputError(
                f"{path} holds Python objects beside tensors, which would execute code when read. "
                "Save its state_dict alone, on a machine where you trust the file."
            ) from error
        raise InputError(f"{path} is not a checkpoint, or was cut off: {error}.") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is not a whole checkpoint ({reason}). Copy it again, or train again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of tensors.")
    return content


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, which tells checkpoints of one name apart."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def state_dict_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint, or the checkpoint if it is one itself.

    Raises:
        InputError: there is none.
    """
    for key in CONTAINERS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"No state dict found; the file has the keys {_some(content)}.")
    return content


def load_weights(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Copy ``state_dict`` into ``model``, under our names or the published ones.

    The released files name the same tensor several times; a model that knows such aliases has a
    method ``canonical_name(name, shape) -> str``, and ``ignored_name(name) -> bool`` for what its
    file holds beside weights; ``explain_misfit(state_dict) -> str | None`` may say in words why
    tensors do not fit. A leading ``module.`` (data parallel) is dropped, batch counters are
    ignored, and any floating dtype is converted.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or two aliases disagree. The
            model is unchanged then.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    rename = getattr(model, "canonical_name", lambda name, shape: name)
    ignored = getattr(model, "ignored_name", lambda name: False)
    given: dict[str, Tensor] = {}
    left_over, contradicting = [], []
    for published, value in state_dict.items():
        if published.endswith(COUNTER):
            continue
        name = published.removeprefix("module.")
        if name not in own and ignored(name):
            continue
        if name not in own:
            name = rename(name, tuple(value.shape))
        if name not in own:
            left_over.append(published)
        elif name in given and not torch.equal(given[name], value):
            contradicting.append(published)
        else:
            given[name] = value

    missing = [name for name in own if name not in given]
    misshapen = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in given.items()
        if value.shape != own[name].shape
    ]
    explain = getattr(model, "explain_misfit", lambda given: None)
    problems = [reason for reason in (explain(given),) if reason]
    for what, names in (
        ("missing", missing),
        ("left over", left_over),
        ("of another shape", misshapen),
        ("given twice with different values", contradicting),
    ):
        if names:
            problems.append(f"{what}: {_some(names)}")
    if problems:
        raise InputError(f"These weights do not fit {type(model).__name__}; {'; '.join(problems)}.")
    model.load_state_dict(given, strict=False)  # strict is ours above; counters stay


def load_counters(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load the batch counters of batch normalisations, which :func:`load_weights` leaves out."""
    counters = {name: value for name, value in state_dict.items() if name.endswith(COUNTER)}
    model.load_state_dict(counters, strict=False)


def check_classes(path: str | Path, content: dict[str, Any], class_names: Sequence[str]) -> None:
    """Compare the class names in a checkpoint, if it holds any, with those of the dataset.

    Args:
        path: of the checkpoint, for the message.
        content: of :func:`load`; files of other projects and earlier versions have no names.
        class_names: of the C classes, background first.

    Raises:
        InputError: the names or their order differ.
    """
    names = content.get("class_names")
    if names is not None and list(names) != list(class_names):
        raise InputError(
            f"{path} was trained for the classes {_some(names)}; the dataset has "
            f"{_some(class_names)}. Their names and order decide what is what: check --dataset and "
            "its classes, or train anew in another --session_name."
        )


def _some(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
