"""Pictures a second and memory of every long step, and the hours of a whole run they make.

    python -m benchmarks.throughput [--device cuda] [--variants plain defaults bfloat16]

Each step runs as float32 without any of the speed flags, and with the defaults of the programs
(channels-last, normalisation folded into convolutions at inference; on CUDA also TF32 convolutions
and the fused optimiser). Numbers are those of the device alone; reading takes some 15 ms a picture
and process beside it. ``python -m benchmarks.step1`` lays two steps beside the plain formulation
and says where their time goes, ``python -m benchmarks.gpu`` tells all about a card.

Batches are the published ones on CUDA, two pictures on the CPU; --batch gives others, up to
the published ones.
"""

from collections import defaultdict
from functools import partial

from benchmarks.measure import Bench
from benchmarks.steps import FLAGS, STEPS, Job
from tool.run import run

VARIANTS = {"plain": (), "float32": FLAGS[:3], "defaults": FLAGS[:4], "bfloat16": FLAGS}
CLASSES = {"voc": 21, "coco": 81}


def main(arguments: list[str] | None = None, docstring: str = __doc__, **defaults) -> None:
    """Print the tables; other defaults make it another program."""
    usual = {"steps": list(STEPS), "classes": list(CLASSES.values()), "batch": 0, "device": "auto"}
    usual["variants"] = ["plain", "defaults"]
    bench = Bench(docstring, arguments, **{**usual, **defaults})
    hours = defaultdict(dict)  # by dataset and variant those of the steps
    for name in bench.args.steps:
        step = STEPS[name]
        batch = min(step.batch, bench.args.batch or (step.batch if bench.on_gpu else 2))
        for classes in bench.args.classes if step.with_classes else [CLASSES["voc"]]:
            ways = {
                variant: partial(step.make, Job(bench.device, VARIANTS[variant], batch, classes))
                for variant in bench.args.variants
            }
            title = f"{name}, {classes} classes, {batch} at once"
            for variant, found in bench.compare(title, ways, batch).items():
                for dataset, number in CLASSES.items():
                    if classes == number or not step.with_classes:
                        taken = getattr(step, dataset) * found.seconds / batch / 3600
                        hours[dataset, variant][name] = taken
    print("\nhours of a whole run on this device, without reading and writing")
    for key, of_steps in hours.items():
        parts = ", ".join(f"{step} {value:.2f}" for step, value in of_steps.items())
        print(f"{', '.join(key)}: {sum(of_steps.values()):.2f}; {parts}")


if __name__ == "__main__":
    run(main)
