"""Damaged files of weights and maps: every one is refused in a sentence, or gives sane numbers.

Small files of every format lose or change some bytes, and are read as the programs do. ``zip``
formats are changed twice: in the bytes of the file, which checksums notice, and within a member,
under a new checksum. A fault is anything but an InputError that names the file, a reading of more
than LONGEST seconds, a file that makes the process grow by more than GROWTH MiB, and a file of
which something is executed.
"""

import io
import random
import resource
import signal
import struct
import sys
import traceback
import zipfile
from collections import Counter
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

WELL = ("read", "refused")
LONGEST = 60  # seconds that reading a small file may take
GROWTH = 256  # MiB by which one small file may raise the peak of memory
NUM_CLASSES = 21
# Events of Python that no reading of a file may cause.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)

executed: list[str] = []
sys.addaudithook(lambda event, _: executed.append(event) if event in FORBIDDEN else None)


class Late(Exception):
    """Reading took too long; no InputError and no damage."""


def read_weights(path: Path) -> None:
    """Read a file as --pretrained does."""
    state = build_backbone(path, None, 2).state_dict()
    assert all(value.isfinite().all() for value in state.values())


def read_picture(path: Path) -> None:
    """Read a file as the programs after make_cam.py do."""
    maps = read_maps(path.parent, path.stem, True, NUM_CLASSES)
    keys, is_cam = maps["keys"], maps["IS_CAM"]
    assert keys[0] == 0
    assert keys.max() < NUM_CLASSES
    assert len(keys) == len(is_cam)
    assert np.isfinite(is_cam).all()


def write_weights(path: Path) -> None:
    """Write the smallest backbone's weights in the format of the name."""
    state = filled_state(ResNet50(1))
    state["bn1.weight"] = state["bn1.weight"].half()
    if path.suffix == ".params":
        arrays = {name: value.float().numpy() for name, value in state.items() if value.ndim}
        write_params(path, arrays, version=2)
    elif path.suffix == ".pth":
        torch.save(state, path, _use_new_zipfile_serialization=path.stem != "legacy")
    else:
        checkpoint.save(path, {"net": state, "class_names": ["background", "cat"]})


def write_picture(path: Path) -> None:
    """Write maps of two scales in the format of the name."""
    maps = [torch.linspace(0, 1, 5 * h * w).view(5, h, w) for h, w in ((4, 5), (2, 3))]
    write_maps(path, np.array([0, 3, 17]), maps, (8, 9))


# A file of every format, how it is written, and how it is read.
FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], None]]] = {
    "zip.pth": (write_weights, read_weights),
    "legacy.pth": (write_weights, read_weights),
    "net.safetensors": (write_weights, read_weights),
    "net.params": (write_weights, read_weights),
    "a.npz": (write_picture, read_picture),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return some bytes after one to three accidents; one in two hits the first 2,000 bytes."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        size = len(changed)
        if not size:
            break
        at = rng.randrange(min(size, rng.choice((2000, size))))
        end = at + rng.choice((1, 2, 4, 8, 64, 512))
        piece = changed[at:end]
        flipped = bytes([piece[0] ^ 1 << rng.randrange(8)])
        number = struct.pack("<Q", rng.choice((*LENGTHS, size, size - 1)))
        other = rng.randrange(size)
        choices = (
            b"",
            flipped + piece[1:],
            rng.randbytes(len(piece)),
            number[: len(piece)] + piece[8:],
            changed[other : other + len(piece)],
            piece * 2,
        )
        changed[at:end] = rng.choice(choices)
        if rng.random() < 0.15:
            del changed[at:]
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
    except BaseException as error:  # anything else is what this sweep looks for
        result = f"{type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1].name}"
    else:
        result = "read"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if (growth := peak() - before) > GROWTH:
        result = f"{growth:.0f} MiB more memory"
    return f"executed {executed[0]}" if executed else result


def late(*_: object) -> None:
    """End what takes too long."""
    raise Late


def sweep(folder: Path, cases: int, seed: int) -> Counter:
    """Read ``cases`` damaged files of every format in every way, and count "way: outcome"."""
    signal.signal(signal.SIGALRM, late)
    counts = Counter()
    for name, (write, read) in FILES.items():
        path = folder / name
        write(path)
        assert outcome(path, read) == "read", name
        sound = path.read_bytes()
        ways = {name: damaged}
        if sound.startswith(b"PK"):
            ways[f"{name}, within"] = damaged_within
        for way, damage in ways.items():
            for case in range(cases):
                path.write_bytes(damage(sound, random.Random(f"{seed} {way} {case}")))
                counts[f"{way}: {outcome(path, read)}"] += 1
    return counts


def peak() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
