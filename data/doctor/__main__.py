"""Before hours of computing, seconds that find what would stop them: ``python -m tool.doctor``.

Looks at the requirements, devices, memory, disk, shared memory, the initial weights, and the
dataset: its lists, labels, every picture's and mask's first and last bytes, and a sample of them
decoded. Prints a line each, with a mend, and a block to paste into a bug report. The exit status is
1 where something would stop a step, else 0.

    python -m tool.doctor --dataset voc --dataset_root /data/VOCdevkit/VOC2012 --session_name exp
"""

import logging
import sys
from collections.abc import Iterator

from data.datasets import add_dataset_flags, open_dataset
from data.doctor import dataset as looks
from data.doctor import machine
from data.doctor.finding import Finding, guarded
from tool import cli
from tool.errors import InputError
from tool.run import run


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--train_list", help="list to learn from; None is the dataset's")
    parser.add_argument("--eval_list", help="list with masks; None is the dataset's")
    parser.add_argument("--pretrained", help="initial weights; None are the dataset's")
    for name, value in (("batch_size", 16), ("crop_size", 512)):
        parser.add_argument(f"--{name}", type=cli.at_least(1), default=value, help="of step 1.1")
    parser.add_argument("--all", action="store_true", help="decode every picture and mask")
    return parser.parse_args(arguments)


def examine(args: cli.Settings) -> Iterator[Finding]:
    """Yield all findings; what one of the looks needs and an earlier one missed is left out."""
    yield from guarded("requirements", machine.requirements)
    yield from guarded("device", machine.device, args)
    yield from guarded("memory", machine.memory, args)
    yield from guarded("/dev/shm", machine.shared_memory, args)
    try:
        dataset = open_dataset(args)
    except InputError as error:
        yield Finding("FAIL", "dataset", str(error))
        return
    yield Finding("ok", "dataset", f"{dataset.name} in {dataset.root}")
    yield from guarded("weights", looks.weights, args, dataset)
    yield from guarded("list", looks.lists, args, dataset)
    learned, judged = args.train_list or dataset.train_list, args.eval_list or dataset.eval_list
    for name, list_name, look in (
        ("labels", learned, lambda ids: looks.labels(dataset, ids)),
        ("pictures", learned, lambda ids: looks.pictures(args, dataset, ids)),
        ("masks", judged, lambda ids: looks.masks(args, dataset, ids)),
        ("disk", learned, lambda ids: looks.disk(args, dataset, ids)),
    ):
        try:
            ids = dataset.ids(list_name)
        except InputError:
            continue  # told with the lists
        yield from guarded(name, look, ids)


class Warnings(logging.Handler):
    """Keeps what a dataset warns of."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def main(arguments: list[str] | None = None) -> None:
    """Print the findings; a failure ends in status 1."""
    args = parse_arguments(arguments)
    warnings = Warnings()
    logging.basicConfig(level=logging.WARNING, handlers=[warnings])
    findings = []
    for finding in examine(args):
        findings.append(finding)
        print(finding, flush=True)
    for text in dict.fromkeys(warnings.texts):
        findings.append(Finding("warn", "dataset", text))
        print(findings[-1])
    failures = sum(finding.status == "FAIL" for finding in findings)
    print("\nFor a bug report:\n```")
    print("\n".join([*machine.about_machine(), *(str(f) for f in findings if f.status != "ok")]))
    print("```")
    if failures:
        sys.exit(f"error: {failures} of these would stop a run; DOCTOR=0 goes on all the same")


if __name__ == "__main__":
    run(main)
