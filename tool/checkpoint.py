"""Naming, checking and loading of weights, and what else a checkpoint holds."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tool.errors import InputError, naming, printable
from tool.weight_files import load as load
from tool.weight_files import save as save

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
# What a checkpoint to continue from holds; a finished one needs no optimiser.
BEGUN = {"net": dict, "settings": dict, "step": int, "optimizer": dict}


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a file, see :func:`load` and :func:`state_dict_of`."""
    with naming(path):
        return state_dict_of(load(path))


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, which tells checkpoints of one name apart."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


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
    file holds beside weights; ``explain_misfit(state_dict) -> str | None`` may say in words why
    tensors do not fit. What data parallel and compiled networks add to names is dropped, batch
    counters are ignored, and any floating dtype is converted.

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
    reason = getattr(model, "explain_misfit", lambda given: None)(given)
    problems = [reason] if reason else []
    problems += [f"{what}: {some(names)}" for what, names in faults.items() if names]
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


def class_names_of(path: str | Path, content: dict[str, Any]) -> list[str] | None:
    """Return the class names in a checkpoint, background first; None where it holds none.

    Names that are no list of words raise an InputError.
    """
    names = content.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: its class_names are no list of words. Give another file.")
    return list(names)


def check_classes(path: str | Path, content: dict[str, Any], class_names: Sequence[str]) -> None:
    """Refuse a checkpoint, of :func:`load`, that has other class names than the dataset.

    The names count in their order, background first. Files of other projects and earlier versions
    have none, and pass. The InputError names the file ``path``.
    """
    names = class_names_of(path, content)
    if names is not None and names != list(class_names):
        raise InputError(
            f"{path} was trained for the classes {some(names)}; the dataset has "
            f"{some(class_names)}. Their names and order decide what is what: check --dataset and "
            "its classes, or train anew in another --session_name."
        )


def check_begun(path: str | Path, content: dict[str, Any], finished: bool = False) -> None:
    """Refuse a checkpoint, of :func:`load`, that holds too little to continue a training.

    One that is ``finished`` needs no optimiser. The InputError names the file ``path``.
    """
    wanted = {name: kind for name, kind in BEGUN.items() if not (finished and name == "optimizer")}
    wrong = [name for name, kind in wanted.items() if not isinstance(content.get(name), kind)]
    if not wrong:
        settings = content["settings"].items()
        checks = {
            "net": all(isinstance(value, Tensor) for value in content["net"].values()),
            "settings": all(isinstance(name, str) and _is_plain(v) for name, v in settings),
            "step": not isinstance(content["step"], bool) and content["step"] >= 0,
            "optimizer": finished or _is_optimizer(content["optimizer"]),
        }
        wrong = [name for name, good in checks.items() if not good]
    if wrong:
        raise InputError(
            f"{path} cannot be continued: {', '.join(wrong)} missing or of another kind. Move it "
            "away, or give --restart to overwrite it."
        )
    with naming(path):
        state_dict_of({"net": content["net"]})


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return value is None or all(isinstance(one, str | int | float) for one in values)


def _is_optimizer(state: dict[str, Any]) -> bool:
    groups = state.get("param_groups")
    return (
        isinstance(state.get("state"), dict)
        and all(isinstance(values, dict) for values in state["state"].values())
        and isinstance(groups, list)
        and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
        and all(isinstance(place, int) for g in groups for place in g["params"])
    )


def some(names: Any) -> str:
    """Return the first of some names, and how many more there are."""
    names = [printable(str(name))[:100] for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
