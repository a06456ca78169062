"""Peak memory of the programs that go through a list of pictures, at two lengths: it must not grow.

    python -m benchmarks.memory [--pictures 60 300] [--folder /tmp]

Runs steps 1.2, 1.3, 2.1, 2.3 and 2.4 on pictures of the demo (links to them where that has too
few), with an untrained narrow network and without workers. Memory is the largest resident set of
the program's process (Linux only), what Python and PyTorch take included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import in_fresh_process, table
from data.demo import Demo
from net.resnet50_SIPE import Net
from tool import checkpoint

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = {
    "make_cam.py": ["--scales", "1.0", "1.5"],
    "eval_cam.py": [],
    "cam2ir.py": ["--crf_iterations", "2"],
    "make_seg_labels.py": ["--refine", "crf", "--crf_iterations", "2"],
    "eval_seg_labels.py": [],
}


def prepare(root: Path, lengths: list[int]) -> None:
    """Make a folder of pictures with lists of so many, and a checkpoint.

    Args:
        root: gets ``pictures/`` (for --dataset folder) and ``final.pth``.
        lengths: of the lists ``first<length>``.
    """
    demo = Demo(root / "demo")
    pictures = root / "pictures"
    for name in ("images", "masks", "splits"):
        (pictures / name).mkdir(parents=True)
    (pictures / "classes.txt").write_text("\n".join(demo.class_names) + "\n")
    drawn = demo.ids("train")
    rows = []
    for number in range(max(lengths)):
        image_id, new = drawn[number % len(drawn)], f"p{number:06d}"
        picture = demo.image_path(image_id)
        (pictures / f"images/{new}{picture.suffix}").symlink_to(picture)
        (pictures / f"masks/{new}.png").symlink_to(demo.mask_path(image_id))
        present = demo.labels([image_id])[0].nonzero()[0]
        rows.append(f"{new}{picture.suffix},{' '.join(demo.class_names[k] for k in present)}\n")
    (pictures / "labels.csv").write_text("image,labels\n" + "".join(rows))
    for length in lengths:
        ids = (f"p{number:06d}\n" for number in range(length))
        (pictures / f"splits/first{length}.txt").write_text("".join(ids))
    torch.manual_seed(0)
    net = Net(demo.num_classes, demo.pretrained)
    checkpoint.save(root / "final.pth", {"net": net.state_dict()})


def peak(command: list[str]) -> int:
    """Return the largest resident set of a program in bytes."""
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, nargs=2, default=(60, 300), help="of the two lists")
    parser.add_argument("--folder", help="where the temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        in_fresh_process(prepare, root, list(args.pictures))  # this process must stay small
        rows = []
        for program, flags in PROGRAMS.items():
            memory = []
            for length in args.pictures:
                which = "--eval_list" if program.startswith("eval") else "--infer_list"
                command = [sys.executable, program, "--dataset", "folder", *flags]
                command += ["--dataset_root", str(root / "pictures"), "--num_workers", "0"]
                command += ["--session_name", str(root / f"run{length}"), "--device", "cpu"]
                command += [which, f"first{length}"]
                if program == "make_cam.py":
                    command += ["--ckpt", str(root / "final.pth")]
                memory.append(peak(command) / 2**20)
            rows.append([program, *(f"{m:.0f}" for m in memory), f"{memory[1] - memory[0]:+.0f}"])
        first, second = args.pictures
        print(table(["MiB", f"{first} pictures", f"{second} pictures", "difference"], rows))


if __name__ == "__main__":
    main()
