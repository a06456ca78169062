"""What the step scripts' command lines have in common."""

import argparse
import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tool import distributed
from tool.cores import cores
from tool.errors import InputError

NETWORK = "net.resnet50_SIPE"
MOST_WORKERS = 32  # processes that read pictures, unless more are asked for
LARGEST = 2**31 - 1  # of whole numbers: seeds and sizes stay within every library's integers
LARGEST_REAL = 1e15  # products of two such numbers, a rate and its factor, stay within float32


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The script's docstring as it stands, and every default."""


class Settings(argparse.Namespace):
    """Values of flags; ``deciding`` holds (name, condition) of those that decide the result.

    ``parser`` is what they come from.
    """

    __slots__ = ("deciding", "parser")


class Parser(argparse.ArgumentParser):
    """A parser that refuses words with a zero byte, which no path may hold."""

    def parse_known_args(self, args=None, namespace=None):
        """Return what ``argparse`` returns."""
        for word in args or ():
            if "\0" in word:
                self.error(f"{word!r} holds a zero byte, which no name may hold")
        return super().parse_known_args(args, namespace)


class StepParser(Parser):
    """A parser whose flags can declare that they decide what a program computes.

    Files of an earlier run are continued only where all deciding flags agree, see
    :class:`tool.training.Training` and :class:`tool.record.Outputs`.
    """

    def __init__(self, docstring: str) -> None:
        super().__init__(description=docstring, formatter_class=_Help)
        self._names: list[tuple[str, dict[str, Any]]] = []
        self._decisions = self.add_argument_group(
            "settings that decide the result", "a continued run must have the same"
        )

    def add_deciding(self, *flags: str, only: dict[str, Any] | None = None, **options: Any) -> None:
        """Add a flag as ``add_argument`` does, and note that it decides the result.

        Args:
            flags, options: of ``add_argument``.
            only: values of other flags, by name, without which this one has no effect.
        """
        name = self._decisions.add_argument(*flags, **options).dest
        self._names.append((name, only or {}))

    def parse_args(self, args=None, namespace=None) -> Settings:
        """Return the settings, which know their deciding names."""
        settings = super().parse_args(args, namespace or Settings())
        settings.deciding, settings.parser = tuple(self._names), self
        return settings


def deciding(settings: Settings) -> dict[str, Any]:
    """Return the flags that decide the result under these settings, with lists for tuples."""
    values = {
        name: getattr(settings, name)
        for name, only in settings.deciding
        if all(getattr(settings, other) == value for other, value in only.items())
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def make_parser(docstring: str) -> StepParser:
    """Return a parser with the flags that all step scripts share but for those of the dataset."""
    parser = StepParser(docstring)
    parser.add_argument(
        "--session_name", default="exp", help="folder of this run: a name or a path"
    )
    parser.add_argument(
        "--num_workers",
        type=at_least(0),
        default=max(1, min(MOST_WORKERS, cores() // distributed.local_world_size())),
        help="processes that read pictures, for each of torchrun's; no result depends on it",
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda:N")
    return parser


def add_network_flag(parser: StepParser) -> None:
    """Add ``--network``, see :func:`import_network`."""
    parser.add_deciding(
        "--network",
        default=NETWORK,
        help="module with the classes Net (training) and CAM (inference); put your own here",
    )


def import_network(name: str) -> ModuleType:
    """Return the module that ``--network`` names.

    Raises:
        InputError: there is no such module, or it lacks the classes Net and CAM.
    """
    try:
        module = importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as error:
        raise InputError(
            f"--network {name}: {error}. Give the dotted name of a module, such as {NETWORK}, that "
            "can be imported from the folder in which you start the program."
        ) from error
    missing = [needed for needed in ("Net", "CAM") if not hasattr(module, needed)]
    if missing:
        raise InputError(
            f"--network {name}: the module has no class {' and no class '.join(missing)}; see "
            "docs/own_method.md."
        )
    return module


def add_speed_flags(
    parser: StepParser, training: bool = False, only: dict[str, Any] | None = None
) -> None:
    """Add how a network computes, see :func:`autocast` and :func:`place`.

    Args:
        parser: of the program.
        only: see :meth:`StepParser.add_deciding`.
        training: rounding adds up over the steps of a training, so ``--channels_last`` decides its
            result; and there is an update for which ``--fused`` counts.
    """
    parser.add_deciding(
        "--amp",
        only=only,
        choices=("off", "bf16"),
        default="off",
        help="bf16 runs the convolutions in bfloat16: less than half the time where the processor "
        "has it, and many times slower where not; the published accuracy is not proven with it; "
        "prototypes stay float32",
    )
    (parser.add_deciding if training else parser.add_argument)(
        "--channels_last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the channels of a pixel together, which convolutions like; rounds otherwise",
    )
    parser.add_argument(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="CUDA convolutions may round their input to 10 bits; products of the method never do",
    )
    if training:
        parser.add_argument(
            "--fused",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="update all weights in one kernel; on CUDA only",
        )


def add_training_flags(parser: StepParser, print_freq: int, save_freq: int) -> None:
    """Add what every training has; see :class:`tool.training.Training` for the meaning."""
    count = at_least(1)
    parser.add_argument(
        "--print_freq", type=count, default=print_freq, help="steps between log lines"
    )
    parser.add_argument(
        "--save_freq", type=count, default=save_freq, help="steps between checkpoints"
    )
    parser.add_deciding("--seed", type=at_least(0), default=15, help="of all chance")
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever is there")
    parser.add_argument(
        "--safetensors", action="store_true", help="write the final weights in that format too"
    )


def add_fold_flag(parser: StepParser) -> None:
    """Add ``--fold_bn``, see :func:`net.resnet50.fold_batch_norm`."""
    parser.add_argument(
        "--fold_bn",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put batch normalisation into the convolutions; rounds otherwise",
    )


def add_crf_flags(parser: StepParser, only: dict[str, Any] | None = None) -> None:
    """Add the flags of the label CRF; ``only`` as in :meth:`StepParser.add_deciding`."""
    parser.add_deciding(
        "--crf_iterations", only=only, type=at_least(0), default=10, help="of the mean field"
    )
    parser.add_deciding(
        "--gt_prob",
        only=only,
        type=fraction,
        default=0.7,
        help="how far the CRF trusts the maps, 0 to 1",
    )


def add_max_pixels_flag(parser: StepParser, what: str) -> None:
    """Add ``--max_pixels``; pictures of VOC and COCO are smaller."""
    parser.add_deciding("--max_pixels", type=at_least(1), default=1_000_000, help=what)


def fraction(text: str) -> float:
    """An argparse type: a number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"between 0 and 1, not {number}")
    return number


def add_visualize_flag(parser: StepParser, what: str) -> None:
    """Add ``--visualize / --no-visualize``."""
    parser.add_argument(
        "--visualize", action=argparse.BooleanOptionalAction, default=False, help=what
    )


def add_label_flags(parser: StepParser, drawings: str) -> None:
    """Add what programs have that make labels of maps, and draw them in a folder ``drawings``."""
    flag = parser.add_argument
    flag("--infer_list", help="list name or file; None is the training list")
    flag("--allow_pickle", action="store_true", help="read .npy dicts; only if you made them")
    add_visualize_flag(parser, f"labels over pictures in <session>/{drawings}")
    flag("--restart", action="store_true", help="make every file again")


def at_least(smallest: int, largest: int = LARGEST) -> Callable[[str], int]:
    """Return an argparse type: a whole number from ``smallest`` to ``largest``."""

    def parse(text: str) -> int:
        number = int(text)
        if number < smallest:
            raise argparse.ArgumentTypeError(f"at least {smallest}, not {number}")
        if number > largest:
            raise argparse.ArgumentTypeError(f"at most {largest}, not {number}")
        return number

    parse.__name__ = "whole number"
    return parse


def number(text: str) -> float:
    """An argparse type: a number from 0 to LARGEST_REAL."""
    value = float(text)
    if not 0 <= value <= LARGEST_REAL:
        raise argparse.ArgumentTypeError(f"from 0 to {LARGEST_REAL:g}, not {value}")
    return value


def above_zero(text: str) -> float:
    """An argparse type: a number above 0, and up to LARGEST_REAL."""
    value = number(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"above 0, not {value}")
    return value


def pick_device(name: str, tf32: bool = True) -> torch.device:
    """Return the device that ``--device`` names, set to round no product of the method.

    Args:
        name: auto (CUDA if there is one), cpu, cuda or cuda:N.
        tf32: whether CUDA convolutions may round their input to 10 bits.

    Raises:
        InputError: there is no such device on this machine.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise InputError(f"--device {name}: not known. Try auto, cpu, cuda or cuda:N.")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = tf32
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and distributed.world_size() > 1:
        name = f"cuda:{distributed.local_rank()}"
    try:
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


def place(net: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """Return the network on its device, its weights laid out as :func:`memory_format` says."""
    return net.to(device, memory_format=memory_format(channels_last))


def memory_format(channels_last: bool) -> torch.memory_format:
    """Return what pictures are to be laid out in, (B, 3, H, W)."""
    return torch.channels_last if channels_last else torch.contiguous_format
