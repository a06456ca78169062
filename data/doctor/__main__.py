"""Before hours of computing, seconds that find what would stop them: ``python -m tool.doctor``.

Looks at the requirements, devices, memory, disk, shared memory, the initial weights, and the
dataset: its lists, batches and labels, every picture's first and last bytes, masks, and a sample of
the pictures decoded. Prints a line each, with what to do, and a block to paste into a bug report.
The exit status is 1 where something would stop a step, else 0.

    python -m tool.doctor --dataset voc --dataset_root /data/VOCdevkit/VOC2012 --session_name exp
"""

import sys

from data.base import Dataset
from data.datasets import make_parser, open_dataset
from data.doctor import dataset as looks
from data.doctor import machine
from data.doctor.finding import Check, Checks, failing, show
from net.recipes import MODELS
from tool import cli, distributed
from tool.errors import InputError, naming
from tool.run import run


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = make_parser(__doc__, "eval_list")
    parser.prog = "python -m tool.doctor"
    flag, count, networks = parser.add_argument, cli.at_least(0), [*MODELS, "none"]
    flag("--train_list", help="list to learn from; None is the dataset's")
    flag("--pretrained", help="initial weights; None are the dataset's")
    flag("--batch_size", type=cli.at_least(1), default=16, help="of step 1.1")
    flag("--crop_size", type=cli.at_least(1), default=512, help="of step 1.1")
    flag("--irn_batch_size", type=count, default=32, help="of step 2.2; 0: no IRN")
    flag("--model", choices=networks, default=networks[0], help="of step 3.1")
    flag("--seg_batch_size", type=count, help="of step 3.1; None is the model's")
    flag("--accumulate", type=count, help="of step 3.1; None is the model's")
    flag("--processes", type=cli.at_least(1), default=1, help="that share a training")
    flag("--all", action="store_true", help="decode every picture and mask")
    return parser.parse_args(arguments)


def batches(args: cli.Settings, dataset: Dataset, name: str) -> Check:
    """Compare a list to learn from, and the processes, with what every training takes of it."""
    sizes = {"--batch_size": (args.batch_size, 1)}
    if args.irn_batch_size:
        sizes["--irn_batch_size"] = (args.irn_batch_size, 1)
    if args.model != "none":
        recipe = MODELS[args.model].training
        recipe = recipe.shared_by(args.processes, args.seg_batch_size, args.accumulate)
        parts = args.accumulate or recipe.accumulate
        flags = f"{args.model}: --accumulate {parts} --batch_size"
        sizes[flags] = (args.seg_batch_size or recipe.batch_size, parts)
    for flags, (part, parts) in sizes.items():
        dataset.picture_ids(name, part * parts, f"{flags} {part}")
        with naming(f"{flags} {part}"):
            distributed.check_share(part, args.processes)
        largest = -(-part // args.processes)
        used = part / (largest * args.processes)
        if used < 1:
            yield (
                "warn",
                f"{flags} {part}: some of {args.processes} processes have {largest} pictures, and "
                f"the others wait for them. {used:.0%} of their time is used",
            )
    yield "ok", "enough pictures for every training and process"


def checks_of(args: cli.Settings) -> Checks:
    """Yield all checks; those of the dataset once it is open."""
    yield "requirements", machine.requirements()
    yield "device", machine.device(args.device, args.processes)
    yield "memory", machine.memory(args.batch_size, args.crop_size, args.num_workers, args.device)
    yield "/dev/shm", machine.shared_memory(args.num_workers)
    try:
        dataset = open_dataset(args)
    except InputError as error:
        yield "dataset", failing(error.args)
        return
    yield "dataset", [("ok", f"{dataset.name} in {dataset.root}")]
    yield "weights", looks.weights(args.pretrained or dataset.pretrained)
    judged = [args.eval_list or dataset.eval_list]
    if args.model != "none":
        judged.append(dataset.test_list)
    learned = args.train_list or dataset.train_list
    ids = {name: [] for name in (learned, *judged)}
    headers = yield from looks.checks_of(dataset, ids, judged, args.all)
    if ids[learned]:
        yield "batches", batches(args, dataset, learned)
        there = {i: headers[i] for i in ids[learned] if i in headers}
        yield "disk", looks.disk(dataset, there, args.session_name)


def main(arguments: cli.Words = None) -> None:
    """Print the findings; a failure ends in status 1."""
    findings = show(checks_of(parse_arguments(arguments)))
    faults = [finding for finding in findings if finding.status != "ok"]
    print("\nFor a bug report:", "```", *machine.about_machine(), *faults, "```", sep="\n")
    failures = sum(finding.status == "FAIL" for finding in findings)
    if failures:
        sys.exit(f"error: {failures} of these would stop a run; DOCTOR=0 goes on all the same")


if __name__ == "__main__":
    run(main)
