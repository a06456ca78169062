"""What the step scripts' command lines have in common."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tool import distributed
from tool.errors import InputError
from tool.optimizer import OPTIMIZERS

NETWORK = "net.resnet50_SIPE"
AUTO = "auto"  # a value that a program finds by itself
LARGEST = 2**31 - 1  # of whole numbers: seeds and sizes stay within every library's integers
LARGEST_REAL = 1e15  # products of two such numbers, a rate and its factor, stay within float32
SMALLEST_FRACTION = 1e-6
Words = list[str] | None  # of a command line; None are those that the program was started with

WIDTH = 100  # of the help, as of the docstrings in it
SETTINGS = "settings"
KINDS = {  # flags of a kind in --help; all others are settings
    "inputs": "dataset dataset_root negative_class bands value_range train_list val_list "
    "infer_list eval_list gt_path label_dir class_names pretrained ckpt irn_ckpt classifier "
    "network backbone model max_pixels allow_pickle",
    SETTINGS: "",
    "outputs": "session_name out_dir out archive archive_comp restart visualize save_format "
    "save_cam safetensors format print_freq save_freq save_minutes tf_freq val_freq",
    "speed": "device num_workers amp channels_last tf32 fused compile fold_bn",
}


class _Help(argparse.RawDescriptionHelpFormatter):
    """The script's docstring as it stands, and the defaults that say something."""

    def _format_usage(self, usage, actions, groups, prefix) -> str:
        needed = [action for action in actions if action.required]
        return super()._format_usage(usage, needed, groups, prefix).rstrip() + " [flags]\n\n"

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help.partition(" (default")[0]
        is_plain = action.default in (None, {}) or action.default is False
        return text if is_plain else f"{text} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return action.dest.rpartition("_")[2].upper()


class Settings(argparse.Namespace):
    """Values of flags, the words that were given, and the parser that read them."""

    __slots__ = ("parser", "words")


class Parser(argparse.ArgumentParser):
    """A parser whose flags can declare that they decide what a program computes.

    Files of an earlier run are continued only where all deciding flags agree, see
    :class:`data.training.Training` and :class:`tool.record.Outputs`; ``deciding`` holds their names
    and conditions.
    """

    def __init__(self, description: str, prog: str | None = None) -> None:
        end = "* decides the result: a continued run must have the same"
        form = partial(_Help, max_help_position=29, width=WIDTH)
        super().__init__(
            prog, description=description, epilog=end, formatter_class=form, add_help=False
        )
        self.deciding: list[tuple[str, dict[str, Any]]] = []
        self.kinds = {kind: self.add_argument_group(kind) for kind in KINDS}
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def add_argument(self, *flags: str, **options: Any) -> argparse.Action:
        """Add a flag to its kind, or a positional argument."""
        if flags[0][0] != "-":
            return super().add_argument(*flags, **options)
        names = (kind for kind, names in KINDS.items() if flags[0][2:] in names.split())
        return self.kinds[next(names, SETTINGS)].add_argument(*flags, **options)

    def add_deciding(self, *flags: str, only: dict[str, Any] | None = None, **options: Any) -> None:
        """Add a flag as ``add_argument`` does, and note that it decides the result.

        Args:
            flags, options: of ``add_argument``.
            only: values of other flags, by name, without which this one has no effect; True stands
                for any that turns the other one on.
        """
        options["help"] = f"* {options.get('help', '')}"
        self.deciding.append((self.add_argument(*flags, **options).dest, only or {}))

    def add_shared(self, *names: str, **options: Any) -> None:
        """Add flags of :data:`SHARED`, with ``options`` in the place of those that stand there."""
        for name in names:
            add = self.add_deciding if name in DECIDING else self.add_argument
            add(f"--{name}", **{**SHARED[name], **options})

    def parse_args(self, args=None) -> Settings:
        """Return the settings, which know their parser and what it was given."""
        settings = Settings()
        settings.parser, settings.words = self, sys.argv[1:] if args is None else args
        return super().parse_args(args, settings)


def deciding(settings: Settings) -> dict[str, Any]:
    """Return the flags that decide the result under these settings."""

    def counts(flag: str, value: Any) -> bool:
        given = getattr(settings, flag)
        return bool(given) if value is True else given == value

    return {
        name: getattr(settings, name)
        for name, only in settings.parser.deciding
        if all(counts(flag, value) for flag, value in only.items())
    }


def import_named(flag: str, name: str) -> ModuleType:
    """Return the module that a flag names; an InputError says why it cannot be imported.

    It may also lie in the working directory; the modules of this project come first.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as error:
        raise InputError(
            f"{flag} {name}: {error}. Give the dotted name of a module, such as {NETWORK}, that "
            "can be imported from the folder in which you start the program."
        ) from error


def within(kind: type, smallest: float, largest: float) -> Callable[[str], Any]:
    """Return an argparse type: a number of a ``kind`` from ``smallest`` to ``largest``."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not smallest <= number <= largest:
            raise argparse.ArgumentTypeError(f"from {smallest} to {largest}, not {number}")
        return number

    parse.__name__ = "number"
    return parse


def at_least(smallest: int, largest: int = LARGEST) -> Callable[[str], int]:
    """Return an argparse type: a whole number from ``smallest`` to ``largest``."""
    return within(int, smallest, largest)


def number_or_auto(text: str) -> float | str:
    """An argparse type: a number of at least 0, or the word auto."""
    return text if text == AUTO else number(text)


def names(text: str) -> list[str]:
    """An argparse type: one or more names between commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ValueError
    return found


number = within(float, 0, LARGEST_REAL)
above_zero = within(float, 1 / LARGEST_REAL, LARGEST_REAL)
fraction = within(float, SMALLEST_FRACTION, 1 - SMALLEST_FRACTION)

TRUE = {"action": "store_true"}
ON = {"action": argparse.BooleanOptionalAction, "default": True}  # --name and --no-name
OFF = {**ON, "default": False}
# Flags of several programs, by name: options of ``add_argument``.
SHARED: dict[str, dict[str, Any]] = {
    "session_name": {"default": "exp", "help": "folder of this run: a name or a path"},
    "num_workers": {
        "type": at_least(0),
        "help": "processes that read pictures, for each of torchrun's; no result depends on it",
    },
    "device": {"default": "auto", "help": "auto (CUDA if there is one), cpu, cuda:N"},
    "restart": {**TRUE, "help": "make everything again, whatever is there"},
    "network": {
        "default": NETWORK,
        "help": "module with the class Net; put your own here, see docs/own_method.md; what a "
        "checkpoint names is not imported",
    },
    "ckpt": {
        "default": "final.pth",
        "help": "a path, or a file in <session>/ckpt; released ones too",
    },
    "class_names": {
        "type": names,
        "help": "between commas, without background, for files that hold none",
    },
    "infer_list": {"help": "list name or file; None is the training list"},
    "eval_list": {"help": "list name or file; None is the dataset's own"},
    "gt_path": {"type": Path, "help": "folder of masks; None is the dataset's own"},
    "allow_pickle": {**TRUE, "help": "read .npy dicts; only if you made them"},
    "visualize": {
        **OFF,
        "help": "draw maps over pictures in <session>/visual, labels in <session>/visual_<folder>",
    },
    "max_pixels": {
        "type": at_least(1),
        "default": 1_000_000,
        "help": "larger pictures are reduced to this many pixels first, and labels enlarged again; "
        "a matter of memory, and of objects, kernels and walks as large as in VOC's pictures",
    },
    "crf_iterations": {
        "type": at_least(0),
        "default": 10,
        "help": "of the mean field",
    },
    "gt_prob": {
        "type": fraction,
        "default": 0.7,
        "help": "how far the CRF trusts the maps, 0 to 1",
    },
    "amp": {
        "choices": ("off", "bf16"),
        "default": "off",
        "help": "bf16 runs the convolutions in bfloat16: less than half the time where the "
        "processor has it, and many times slower where not; the published accuracy is not proven "
        "with it; prototypes stay float32",
    },
    "channels_last": {
        **ON,
        "help": "keep the channels of a pixel together, which convolutions like; rounds otherwise",
    },
    "tf32": {
        **ON,
        "help": "CUDA convolutions may round their input to 10 bits; products of the method never "
        "do",
    },
    "compile": {
        **TRUE,
        "help": "compile the convolutions and what stands between them by torch.compile first, "
        "which takes minutes and a C++ compiler: fewer kernels; rounds otherwise",
    },
    "fold_bn": {
        **ON,
        "help": "put batch normalisation into the convolutions; rounds otherwise",
    },
    "background_weight": {
        "type": number,
        "help": "of the background's soft IoU where classes compete for seeds; None is that of the "
        "checkpoint, or 0.5 (released code); 1 suits few classes",
    },
}
DECIDING = (
    "network",
    "class_names",
    "max_pixels",
    "crf_iterations",
    "gt_prob",
    "amp",
    "background_weight",
)
BACKBONES = ("backbone", "base", "resnet50")  # of networks, which are compiled
SPEED = ("amp", "channels_last", "tf32", "compile")  # how a network computes
# Of programs that make labels of maps.
FROM_MAPS = ("infer_list", "allow_pickle", "max_pixels", "visualize", "restart")


def add_training_flags(parser: Parser, print_freq: int, save_freq: int) -> None:
    """Add what every training has; see :class:`data.training.Training` for the meaning.

    Rounding adds up over the steps of a training, so ``--channels_last`` and ``--compile`` decide
    its result.
    """
    parser.add_deciding("--train_list", help="list name or file; None is the dataset's own")
    first = "a file, imagenet, or none; None is what the dataset starts from"
    parser.add_deciding("--pretrained", "--initial", help=first)
    suits = "sgd as published; adamw suits transformers and narrow networks, with a lower rate"
    parser.add_deciding("--optimizer", choices=OPTIMIZERS, default=OPTIMIZERS[0], help=suits)
    parser.add_deciding("--seed", type=at_least(0), default=15, help="of all chance")
    parser.add_shared("amp", "tf32", "restart")
    for name in ("channels_last", "compile"):
        parser.add_deciding(f"--{name}", **SHARED[name])
    add, whole = parser.add_argument, at_least(1)
    add("--fused", **ON, help="update all weights in one kernel; on CUDA only")
    add("--safetensors", **TRUE, help="write the final weights in that format too")
    add("--print_freq", type=whole, default=print_freq, help="steps between log lines")
    add("--save_freq", type=whole, default=save_freq, help="steps between checkpoints")
    slow = "and minutes between them, where steps are slow"
    add("--save_minutes", type=above_zero, default=10.0, help=slow)


def pick_device(name: str, tf32: bool = True, processes: int | None = None) -> torch.device:
    """Return the device that ``--device`` names, set to round no product of the method.

    Args:
        name: auto (CUDA if there is one), cpu, cuda or cuda:N.
        tf32: whether CUDA convolutions may round their input to 10 bits.
        processes: that take a GPU each; None are torchrun's on this machine.

    Raises:
        InputError: there is no such device on this machine, or not one for each process.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = tf32
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    processes = processes or distributed.number("LOCAL_WORLD_SIZE", 1)
    cards = torch.cuda.device_count() if name == "cuda" else 1
    if name.startswith("cuda") and 0 < cards < processes:
        raise InputError(
            f"--device {name}: {processes} processes take a GPU each, of which it names {cards}. "
            "Give --device cuda, and no more processes than there are GPUs."
        )
    if name == "cuda":
        name = f"cuda:{distributed.number('LOCAL_RANK', 0)}"
    try:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise RuntimeError("not known")
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}. Try auto, cpu, cuda or cuda:N.") from error
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """Return the context in which ``--amp`` wants the network to run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16")


def place(
    net: nn.Module, device: torch.device, channels_last: bool, compiled: bool = False
) -> nn.Module:
    """Return the network on its device, the channels of its weights last or not.

    Convolutions lay out what they are given like their weights. What is compiled when it is called
    is the first of BACKBONES that the network has, or all of it; names stay as they are. Sizes of
    other parts depend on those of pictures in ways that take a compiler many minutes.

    Raises:
        InputError: this machine lacks what PyTorch compiles with.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net.to(device, memory_format=layout)
    if compiled:
        try:
            torch.compile(torch.neg)(torch.ones(1, device=device))
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"--compile: {reason}. Install a C++ compiler, such as g++, or leave the flag out."
            ) from error
        parts = (getattr(net, name) for name in BACKBONES if hasattr(net, name))
        # Chance is PyTorch's own, as in a network that is not compiled.
        next(parts, net).compile(options={"fallback_random": True})
    return net
