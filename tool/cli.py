"""What the step scripts' command lines have in common."""

import argparse
import math
import os
from collections.abc import Callable

import torch
from torch import nn

from data.datasets import DATASETS, Dataset
from tool import distributed
from tool.errors import InputError
from tool.run import run

__all__ = ["run"]


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The script's docstring as it stands, and every default."""


def make_parser(docstring: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that all step scripts share."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=_Help)
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="voc", help="what to read")
    parser.add_argument(
        "--dataset_root", help="its folder; None is the dataset's usual place, see the README"
    )
    parser.add_argument(
        "--session_name", default="exp", help="folder of this run: a name or a path"
    )
    parser.add_argument(
        "--num_workers",
        type=at_least(0),
        default=min(8, max(1, (os.cpu_count() or 1) // distributed.local_world_size())),
        help="processes that read pictures, for each of torchrun's; no result depends on it",
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda:N")
    return parser


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of scripts that build a SIPE network."""
    parser.add_argument(
        "--network",
        default="net.resnet50_SIPE",
        help="module with the classes Net (training) and CAM (inference); put your own here",
    )
    add_speed_flags(parser)


def add_speed_flags(parser: argparse.ArgumentParser) -> None:
    """Add how a network computes, see :func:`autocast` and :func:`place`."""
    parser.add_argument(
        "--amp",
        choices=("off", "bf16"),
        default="off",
        help="bf16 runs the convolutions in bfloat16: less than half the time where the processor "
        "has it, and many times slower where not; the published accuracy is not proven with it; "
        "prototypes stay float32",
    )
    parser.add_argument(
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


def add_fold_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--fold_bn``, see :func:`net.resnet50.fold_batch_norm`."""
    parser.add_argument(
        "--fold_bn",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put batch normalisation into the convolutions; rounds otherwise",
    )


def add_fused_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--fused``, see :func:`tool.training.sgd`."""
    parser.add_argument(
        "--fused",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="update all weights in one kernel; on CUDA only",
    )


def add_crf_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the label CRF."""
    parser.add_argument("--crf_iterations", type=at_least(0), default=10, help="of the mean field")
    parser.add_argument(
        "--gt_prob", type=fraction, default=0.7, help="how far the CRF trusts the maps, 0 to 1"
    )


def fraction(text: str) -> float:
    """An argparse type: a number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"between 0 and 1, not {number}")
    return number


def add_visualize_flag(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--visualize / --no-visualize``."""
    parser.add_argument(
        "--visualize", action=argparse.BooleanOptionalAction, default=False, help=what
    )


def at_least(smallest: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number of at least ``smallest``."""

    def parse(text: str) -> int:
        number = int(text)
        if number < smallest:
            raise argparse.ArgumentTypeError(f"at least {smallest}, not {number}")
        return number

    parse.__name__ = "whole number"
    return parse


def above_zero(text: str) -> float:
    """An argparse type: a finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"above 0, not {number}")
    return number


def open_dataset(args: argparse.Namespace) -> Dataset:
    """Return the dataset that ``--dataset`` and ``--dataset_root`` name."""
    return DATASETS[args.dataset](args.dataset_root)


def pick_device(name: str) -> torch.device:
    """Return the device that ``--device`` names.

    Raises:
        InputError: there is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and distributed.world_size() > 1:
        name = f"cuda:{distributed.local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}. Try auto, cpu, cuda or cuda:N.") from error
    return device


def autocast(args: argparse.Namespace, device: torch.device) -> torch.autocast:
    """Return the context in which ``--amp`` wants the network to run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=args.amp == "bf16")


def place(net: nn.Module, args: argparse.Namespace, device: torch.device) -> nn.Module:
    """Return the network on its device, as the flags of :func:`add_speed_flags` want it."""
    torch.backends.cudnn.allow_tf32 = args.tf32
    return net.to(device, memory_format=memory_format(args))


def memory_format(args: argparse.Namespace) -> torch.memory_format:
    """Return what pictures are to be laid out in, (B, 3, H, W)."""
    return torch.channels_last if args.channels_last else torch.contiguous_format
