"""Damaged files of weights and maps: every one is refused in a sentence, or gives sane numbers.

    python -m tests.sweep_files --cases 3000 --seed 0

takes small files of every format, changes some bytes of each in so many ways, reads them as the
programs do, and counts what happens. ``zip`` formats are changed twice: in the bytes of the file,
which checksums notice, and within a member, under a new checksum. The exit status is 1 if anything
but an InputError that names the file was raised, a reading took longer than ``LONGEST`` seconds,
a file made the process grow by more than ``GROWTH`` MiB, or something in a file was executed.
"""

import argparse
import collections
import io
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from net.resnet50 import ResNet50, build_backbone
from tests.fill import filled_state
from tests.mxnet import write_params
from tool import checkpoint
from tool.errors import InputError
from tool.maps import read_maps, write_maps

LONGEST = 60  # seconds that reading a small file may take
GROWTH = 256  # MiB by which one small file may raise the peak of memory
NUM_CLASSES = 21
# Events of Python that no reading of a file may cause.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)

executed: list[str] = []


class Late(Exception):
    """Reading took too long; no InputError and no damage."""


def weights() -> dict[str, torch.Tensor]:
    """Return the smallest backbone's, among them a half-precision and an aliased tensor."""
    state = filled_state(ResNet50(1))
    state["bn1.weight"] = state["bn1.weight"].half()
    return state


def read_weights(path: Path) -> None:
    """Read a file as --pretrained does."""
    net = build_backbone(path, None, 2)
    for name, value in net.state_dict().items():
        assert value.isfinite().all(), f"{name} is not finite"


def read_begun(path: Path) -> None:
    """Read a file as a training that continues does."""
    content = checkpoint.load(path)
    checkpoint.check_begun(content, "train_irn", finished=False)
    checkpoint.check_classes(content, ["background", "cat"])
    net = torch.nn.Linear(3, 2)
    checkpoint.load_weights(net, content["net"], path)
    checkpoint.load_counters(net, content["net"])
    assert all(value.isfinite().all() for value in net.parameters())


def read_picture(path: Path) -> None:
    """Read a file as the programs after make_cam.py do."""
    maps = read_maps(path.parent, path.stem, True, NUM_CLASSES)
    keys, is_cam = maps["keys"], maps["IS_CAM"]
    assert keys[0] == 0
    assert keys.max() < NUM_CLASSES
    assert len(keys) == len(is_cam)
    assert np.isfinite(is_cam).all()


def in_tar() -> bytes:
    """Return what PyTorch wrote before 2017, as far as its beginning tells."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


def begun() -> dict:
    """Return what a training writes to continue from."""
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 3,
        "program": "train_irn",
        "sources": {"pretrained": "none"},
        "settings": {"lr": 0.1, "scales": [1, 2], "crop": None},
        "class_names": ["background", "cat"],
    }


def make_files(folder: Path) -> dict[str, tuple[Path, Callable[[Path], None]]]:
    """Write one sound file a format, and return it with the function that reads it."""
    state = weights()
    files = {
        "torch zip": ("zip.pth", read_weights),
        "torch continued": ("last.pth", read_begun),
        "torch legacy": ("legacy.pth", read_weights),
        "torch legacy continued": ("legacy_last.pth", read_begun),
        "torch tar": ("tar.pth", read_weights),
        "safetensors": ("net.safetensors", read_weights),
        "mxnet": ("net.params", read_weights),
        "maps npz": ("npz.npz", read_picture),
        "maps packed npz": ("packed.npz", read_picture),
        "maps npy": ("pickled.npy", read_picture),
    }
    found = {kind: (folder / name, read) for kind, (name, read) in files.items()}
    torch.save({"net": state, "epoch": 3}, found["torch zip"][0])
    torch.save(begun(), found["torch continued"][0])
    for kind, content in (("torch legacy", state), ("torch legacy continued", begun())):
        torch.save(content, found[kind][0], _use_new_zipfile_serialization=False)
    found["torch tar"][0].write_bytes(in_tar())
    checkpoint.save(found["safetensors"][0], {"net": state, "class_names": ["background", "cat"]})
    arrays = {name: value.float().numpy() for name, value in state.items() if value.ndim}
    write_params(found["mxnet"][0], arrays, version=2)
    maps = [torch.linspace(0, 1, 5 * h * w).view(5, h, w) for h, w in ((4, 5), (2, 3))]
    for kind in ("maps npz", "maps npy"):
        write_maps(found[kind][0], np.array([0, 3, 17]), maps, (8, 9))
    with np.load(found["maps npz"][0]) as stored:
        np.savez_compressed(found["maps packed npz"][0], **stored)
    return found


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return some bytes after one to three accidents; one in two hits the first 2,000 bytes."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        size = len(changed)
        reach = min(size, 2000) if rng.random() < 0.5 else size
        if not reach:
            break
        at = rng.randrange(reach)
        length = min(rng.choice((1, 2, 4, 8, 64, 512)), size - at)
        kind = rng.randrange(7)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 3:
            number = rng.choice((*LENGTHS, size, size - 1)) & 0xFFFFFFFFFFFFFFFF
            width = rng.choice((1, 2, 4, 8))
            changed[at : at + width] = struct.pack("<Q", number)[:width]
        elif kind == 4:
            other = rng.randrange(size)
            one, two = changed[at : at + length], changed[other : other + length]
            changed[at : at + len(two)], changed[other : other + len(one)] = two, one
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        else:
            del changed[at : at + length]
    return bytes(changed)


def damaged_within(content: bytes, rng: random.Random) -> bytes:
    """Return a zip archive one of whose members was damaged before it got its checksum."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", old.infolist()[0].compress_type) as new,
    ):
        members = old.namelist()
        first = [name for name in members if name.endswith("data.pkl")]
        chosen = first[0] if first and rng.random() < 0.8 else rng.choice(members)
        for name in members:
            inside = old.read(name)
            new.writestr(name, damaged(inside, rng) if name == chosen else inside)
    return buffer.getvalue()


def outcome(path: Path, read: Callable[[Path], None]) -> str:
    """Return "read", "refused", or what else happened."""
    executed.clear()
    before = peak()
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        read(path)
    except InputError as error:
        named = path.name in str(error) and "\n" not in str(error)
        result = "refused" if named else f"a message that does not name the file: {error}"
    except Late:
        result = f"longer than {LONGEST} s"
    except BaseException as error:  # anything else is what this sweep looks for
        result = f"{type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1].name}"
    else:
        result = "read"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if (growth := peak() - before) > GROWTH:
        result = f"{growth:.0f} MiB more memory"
    return f"executed {executed[0]}" if executed else result


def sweep(folder: Path, cases: int, seed: int) -> dict[str, collections.Counter]:
    """Read ``cases`` damaged files of every format, and count the outcomes."""
    signal.signal(signal.SIGALRM, _late)
    counts = {}
    for kind, (path, read) in make_files(folder).items():
        sound = path.read_bytes()
        ways = {kind: damaged}
        if kind == "torch tar":
            assert outcome(path, read) == "refused"
        else:
            assert outcome(path, read) == "read", (kind, outcome(path, read))
        if sound.startswith(b"PK"):
            ways[f"{kind}, within"] = damaged_within
        for way, damage in ways.items():
            counts[way] = collections.Counter()
            for case in range(cases):
                path.write_bytes(damage(sound, random.Random(f"{seed} {way} {case}")))
                counts[way][outcome(path, read)] += 1
        path.unlink()  # npz comes before npy
    return counts


def unexpected(counts: dict[str, collections.Counter]) -> dict[str, int]:
    """Return what should not have happened, with its number."""
    return {
        f"{way}: {what}": number
        for way, found in counts.items()
        for what, number in found.items()
        if what not in ("read", "refused")
    }


def peak() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _late(*args) -> None:
    raise Late


def _watch(event: str, args: tuple) -> None:
    if event in FORBIDDEN:
        executed.append(event)


sys.addaudithook(_watch)


def main() -> int:
    """Print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3000, help="damaged files a format and way")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        counts = sweep(Path(folder), args.cases, args.seed)
    for way, found in counts.items():
        print(f"{way:32} read {found['read']:5} refused {found['refused']:5}")
    wrong = unexpected(counts)
    files = sum(sum(found.values()) for found in counts.values())
    print(f"{files} files, {peak():.0f} MiB at the peak")
    for what, number in wrong.items():
        print(f"WRONG {number:5} {what}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
