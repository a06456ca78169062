"""All steps on a tiny folder, killed at random moments, and run again: nothing may come out else.

    python -m tests.soak --kills 20 --seed 0

runs the steps 1.1 to 3.2 undisturbed in one session, and again in another one, where they are
killed (``kill -9``) as many times, each at a random moment of the time that it took undisturbed.
After a kill the same command is run again. In the end every weight, map, label, figure and setting
of both sessions must be equal, and no half-written file may be left. The exit status is 1 if not.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.processes import start
from tests.tiny import command_lines, make_folder, make_weights
from tool import checkpoint
from tool.pictures import read_mask

PATIENCE = 120.0  # seconds that a step may take
# Settings that say where a session lies, and digests of checkpoints, which hold such settings.
WHERE = ("source", "path", "session_name", "digest")


def run_whole(program: str, flags: list[str], output: Path) -> float:
    """Run a program to its end, and return how many seconds it took.

    Raises:
        AssertionError: it failed; with all that it printed.
    """
    began = time.monotonic()
    process = start(program, flags, output)
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0, f"{program}: {process.exitcode}\n{output.read_text()}"
    return time.monotonic() - began


def run_killed(program: str, flags: list[str], output: Path, after: float) -> bool:
    """Start a program and kill it after some seconds; return whether it was still at work."""
    process = start(program, flags, output)
    process.join(after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), f"{program}: {process.exitcode}\n{output.read_text()}"
    return process.exitcode == -9


def without_places(value: Any) -> Any:
    """Return a note without what tells of the session's folder, as files with its name do."""
    if isinstance(value, dict):
        kept = (key for key in value if key not in WHERE)
        return {key: without_places(value[key]) for key in kept}
    return value


def content_of(path: Path) -> dict[str, Any]:
    """Return what is in a file of a session, to be compared."""
    if path.suffix == ".pth":
        return checkpoint.load(path)["net"]
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: torch.from_numpy(file[name]) for name in file}
    if path.suffix == ".png":
        return {"label": torch.from_numpy(read_mask(path))}
    return without_places(json.loads(path.read_text()))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two contents are equal, to the last bit."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


def results(session: Path) -> dict[str, Path]:
    """Return the files of a session that its steps are run for, by their names in it."""
    files = (path for path in session.rglob("[!.]*") if path.is_file())
    files = (path for path in files if "runs" not in path.parts[-2])
    endings = (".pth", ".npz", ".png", ".json")
    return {str(path.relative_to(session)): path for path in files if path.suffix in endings}


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of files that differ between sessions, or that only one of them has."""
    ours, theirs = results(one), results(other)
    found = sorted(ours.keys() ^ theirs.keys())
    for name in sorted(ours.keys() & theirs.keys()):
        if name != "args.json" and not same(content_of(ours[name]), content_of(theirs[name])):
            found.append(name)
    return found


def unfinished(session: Path) -> list[str]:
    """Return the names of half-written files."""
    return [str(path.relative_to(session)) for path in session.rglob("*.tmp")]


def soak(folder: Path, kills: int, seed: int) -> tuple[Counter, list[str]]:
    """Run all steps undisturbed and killed.

    Args:
        folder: an empty one.
        kills: how many.
        seed: of all chance.

    Returns:
        How often each program was killed, and what is wrong in the end: files that differ, and
        half-written ones.
    """
    rng = random.Random(seed)
    root, weights = make_folder(folder / "ds"), make_weights(folder / "weights.pth")
    whole, killed = folder / "whole/run", folder / "killed/run"
    output = folder / "out.txt"
    seconds = {}
    lines = [command_lines(root, session, weights) for session in (whole, killed)]
    for line in lines:
        for name in ("train_resnet50_SIPE", "train_irn", "train_seg"):
            line[name] += ["--save_freq", "1"]
    for program, flags in lines[0].items():
        seconds[program] = run_whole(program, flags, output)

    victims = Counter(rng.sample([*seconds] * (kills // len(seconds) + 1), kills))
    hit: Counter = Counter()
    spared = 0  # kills that came too late, which the next program gets
    for program, flags in lines[1].items():
        left = victims[program] + spared
        for spared in range(left, -1, -1):
            after = rng.uniform(0, seconds[program] / max(left, 1.2))
            if not spared or not run_killed(program, flags, output, after):
                break
            hit[program] += 1
        run_whole(program, flags, output)
    return +hit, differences(whole, killed) + unfinished(killed)


def main() -> int:
    """Print what was killed and what differs, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        hit, wrong = soak(Path(folder), args.kills, args.seed)
    for program, times in hit.items():
        print(f"{program:24} killed {times} times")
    print(f"{hit.total()} kills of {args.kills}, {time.monotonic() - began:.0f} s")
    for name in wrong:
        print(f"WRONG {name}")
    return int(bool(wrong) or hit.total() < args.kills)


if __name__ == "__main__":
    sys.exit(main())
