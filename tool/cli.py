"""What the step scripts' command lines have in common."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

import torch

from data.datasets import DATASETS, Dataset
from tool.errors import InputError

log = logging.getLogger(__name__)


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
        default=min(8, os.cpu_count() or 1),
        help="processes that read pictures; no result depends on it",
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
    add_amp_flag(parser)


def add_amp_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--amp``, see :func:`autocast`."""
    parser.add_argument(
        "--amp",
        choices=("off", "bf16"),
        default="off",
        help="bf16 runs the convolutions in bfloat16: less than half the time where the processor "
        "has it, the published accuracy not proven with it; prototypes stay float32",
    )


def add_crf_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the label CRF."""
    parser.add_argument("--crf_iterations", type=at_least(0), default=10, help="of the mean field")
    parser.add_argument(
        "--gt_prob", type=_share, default=0.7, help="how far the CRF trusts the maps, 0 to 1"
    )


def _share(text: str) -> float:
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


def open_dataset(args: argparse.Namespace) -> Dataset:
    """Return the dataset that ``--dataset`` and ``--dataset_root`` name."""
    return DATASETS[args.dataset](args.dataset_root)


def pick_device(name: str) -> torch.device:
    """Return the device that ``--device`` names.

    Raises:
        InputError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}. Try auto, cpu, cuda or cuda:N.") from error
    return device


def autocast(args: argparse.Namespace, device: torch.device) -> torch.autocast:
    """Return the context in which ``--amp`` wants the network to run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=args.amp == "bf16")


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a mistake in the input ends as one sentence and exit status 2."""
    try:
        main()
    except InputError as error:
        # A DataLoader worker hands over its whole traceback; the sentence stands at its end.
        log.error("error: %s", str(error).rsplit("InputError: ", 1)[-1].strip())
        sys.exit(2)
    except KeyboardInterrupt:
        log.error("interrupted; the same command continues")
        sys.exit(130)
