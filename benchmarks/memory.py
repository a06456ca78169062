"""Peak memory of the programs that go through a list of pictures, at two lengths: it must not grow.

    python -m benchmarks.memory [--pictures 60 300]

Runs steps 1.2, 1.3, 2.1, 2.3 and 2.4 on pictures of the demo, which has 300, with an untrained
narrow network and without workers. Memory is what a program needs beyond Python and PyTorch (Linux
only). A program is called twice, and the second call may find its work done: only MiB count.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Bench, program
from data.demo import Demo
from net.resnet50_SIPE import Net

PROGRAMS = {
    "make_cam": ["--scales", "1.0", "1.5"],
    "eval_cam": [],
    "cam2ir": ["--crf_iterations", "2"],
    "make_seg_labels": ["--refine", "crf", "--crf_iterations", "2"],
    "eval_seg_labels": [],
}


def main() -> None:
    """Print the table."""
    bench = Bench(__doc__, repeats=1, pictures=[60, 300])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        demo = Demo(root / "demo")
        torch.save(Net(demo.num_classes, demo.pretrained).state_dict(), root / "net.pth")
        common = ["--dataset", "demo", "--dataset_root", str(root / "demo"), "--num_workers", "0"]
        common += ["--device", bench.args.device]
        for name, flags in PROGRAMS.items():
            ways = {}
            for length in bench.args.pictures:
                some = root / f"{length}.txt"
                some.write_text("\n".join(demo.ids("train")[:length]))
                which = "--eval_list" if name.startswith("eval") else "--infer_list"
                own = [*flags, which, str(some), "--session_name", str(root / f"run{length}")]
                own += ["--ckpt", str(root / "net.pth")] if name == "make_cam" else []
                ways[f"{length} pictures"] = partial(program, name, [*common, *own])
            bench.compare(name, ways)


if __name__ == "__main__":
    main()
