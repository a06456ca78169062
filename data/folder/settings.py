"""Settings that suit a folder of pictures, as ``run_folder.sh`` takes them.

    python -m data.folder.settings --dataset_root pictures

Prints a line NAME=value a setting: the flags of every step, see ``run_folder.sh``, and the lists to
judge by. What they were chosen by, and how long the steps will take on this machine, stand among
its messages. The flags depend on nothing but the folder, the kind of the device and whether it
computes in bfloat16, so that a run that is continued has those that it began with.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
import time
from statistics import median

import torch

from data.datasets import make_parser, open_dataset
from data.folder import Folder
from net.resnet50_SIPE import Net
from tool import cli
from tool.errors import InputError
from tool.pictures import stored
from tool.run import run

LARGEST = {"cpu": 256, "cuda": 512}  # long side of the pictures that networks learn from, pixels
GRID = 16  # pixels, of which windows have a multiple
BATCH = 8
WINDOWS = 1600  # that a training learns from
LEAST_EPOCHS = 5  # those of steps 1.1 and 2.2, as published
FEW = 100  # pictures, below which step 1.1 learns at a smaller rate
# What a picture or a window takes, in seconds of step 1.1 for a window; on a CPU.
MAPS, LABEL, IRN_WINDOW, SEG_WINDOW, SEGMENT = 6, 3, 2, 1, 6

log = logging.getLogger(__name__)


def sides_of(side: int, device: str) -> tuple[int, int]:
    """Return the long side of pictures, and the side of a window, of what is learnt from.

    Args:
        side: the long side of the folder's pictures, pixels.
        device: ``"cpu"`` or ``"cuda"``.
    """
    long_side = max(2 * GRID, min(side, LARGEST[device]))
    return long_side, max(2 * GRID, long_side * 3 // 4 // GRID * GRID)


def epochs_of(pictures: int) -> int:
    """Return the epochs that give WINDOWS, of whole batches."""
    batch = min(BATCH, pictures)
    return max(LEAST_EPOCHS, -(-WINDOWS // (pictures // batch * batch)))


def flags_of(
    pictures: int, side: int, device: str, amp: str, model: str, classes: int = 1
) -> dict[str, str]:
    """Return the flags of the steps, by the variable of the script.

    No window is larger than the pictures. The steps that learn and localize see objects in one
    size; those that outline see pictures of up to twice their long side.

    Args:
        pictures: that are learnt from.
        side: their median long side, pixels.
        device: ``"cpu"`` or ``"cuda"``.
        amp: of :func:`tool.cli.autocast`.
        model: of step 3.
        classes: without background. The consistency loss averages over absent ones, too, and is
            weighed so that many do not weaken it.
    """
    long_side, window = sides_of(side, device)
    batch, epochs = min(BATCH, pictures), epochs_of(pictures)
    small, large = f"--max_pixels {long_side**2}", f"--max_pixels {4 * long_side**2}"
    rate = 0.02 if pictures < FEW else 0.05
    recipe, scale = "", ""
    if model == "deeplabv2_resnet101":  # sees objects at test as large as it learnt them
        segmented = min(max(side, long_side), 2 * long_side)
        recipe, scale = "--recipe short ", f"--scales {long_side / segmented:.2f} "
    return {
        "TRAIN_FLAGS": f"--background_weight 1 --gsc_weight {max(1, classes // 3)} "
        f"--batch_size {batch} --max_epochs {epochs} --lr {rate} --crop_size {window} "
        f"--resize_min {long_side * 5 // 8} --resize_max {long_side} --val_freq 0 --amp {amp}",
        "CAM_FLAGS": "--background_weight auto --competitors present --scales 1.0 1.5 "
        f"{small} --amp {amp}",
        "IRN_FLAGS": f"--irn_batch_size {batch} --irn_num_epoches {epochs} "
        f"--irn_learning_rate 0.05 --irn_crop_size {long_side} --edge_only {small} --amp {amp}",
        "LABEL_FLAGS": f"--irn_crop_size {long_side} --exp_times 6 {large} --amp {amp}",
        "SEG_FLAGS": f"{recipe}--batch_size {batch} --accumulate 1 "
        f"--iterations {pictures // batch * epochs} --crop_size {window + 1} {small} --amp {amp}",
        "INFER_FLAGS": f"{scale}{large} --amp {amp}",
        "CAM2IR_FLAGS": large,
    }


def minutes_of(pictures: int, tested: int, window: float, refine: str, model: str) -> dict:
    """Return the minutes that the steps take, by the name of the step.

    Args:
        pictures, tested: of the list to learn from, and of that to segment.
        window: seconds of step 1.1 for a window.
        refine, model: of the script; without a network, step 3 takes none.
    """
    windows = pictures * epochs_of(pictures)
    costs = {"1.1": windows, "1.2": MAPS * pictures, "2.3": LABEL * pictures}
    if refine == "irn":
        costs["2.1 and 2.2"] = LABEL * pictures + IRN_WINDOW * windows
    if model != "none":
        costs |= {"3.1": SEG_WINDOW * windows, "3.2": SEGMENT * tested}
    return {step: cost * window / 60 for step, cost in costs.items()}


def seconds_a_window(size: int, device: torch.device, amp: str) -> float:
    """Return what step 1.1 takes here for a window of so many pixels, with random weights."""
    net = cli.place(Net(2, None), device, channels_last=True)
    windows = torch.zeros(BATCH // 2, 3, size, size, device=device)
    seconds = []
    for _ in range(3):  # the first pass allocates and chooses, and another program may take a turn
        begin = time.monotonic()
        with cli.autocast(amp, device):
            out = net(windows, torch.ones(1, 1, 1, 1, device=device))
        losses = net.losses(out, torch.ones(len(windows), 1, device=device))
        sum(losses.values()).backward()
        losses["CLS"].item()  # a GPU is waited for
        seconds.append(time.monotonic() - begin)
    return min(seconds) / len(windows)


def check_differences(dataset: Folder, ids: list[str]) -> None:
    """Raise an InputError where all pictures show the same, so that nothing can be learnt."""
    labels = dataset.labels(ids)
    if (labels == labels[0]).all():
        shown = " and ".join(dataset.names_of(ids[0])) or "no class"
        raise InputError(
            f"{dataset.source_names} of {dataset.root}: every picture shows {shown}. Add pictures "
            "that show something else, from which the difference is learnt."
        )


def main(arguments: cli.Words = None) -> None:
    """Print the settings."""
    parser = make_parser(__doc__, "amp")
    parser.prog = "python -m data.folder.settings"
    parser.set_defaults(dataset="folder", amp=None)
    parser.add_argument("--refine", choices=("crf", "irn"), default="crf", help="of the script")
    parser.add_argument("--model", default="deeplabv2_resnet101", help="of the script")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="   %(message)s", level=logging.INFO)
    dataset = open_dataset(args)
    lists = {name: dataset.picture_ids(name) for name in (dataset.train_list, dataset.test_list)}
    ids, test_ids = lists[dataset.train_list], lists[dataset.test_list]
    check_differences(dataset, ids)
    device = cli.pick_device(args.device)
    is_fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    amp = args.amp or ("bf16" if is_fast else "off")
    side = round(median(max(stored(dataset.image_path(i)).size) for i in ids))
    lines = flags_of(len(ids), side, device.type, amp, args.model, dataset.num_classes - 1)
    lines["TESTED"] = dataset.test_list
    for name, found in (("JUDGED", dataset.train_list), ("SEG_JUDGED", dataset.test_list)):
        has_masks = any(dataset.mask_path(image_id).is_file() for image_id in lists[found])
        lines[name] = found if has_masks else ""
    for name, value in lines.items():
        print(f"{name}={value}")
    log.info("%d pictures, half of them above %d pixels, on %s", len(ids), side, device)

    window = seconds_a_window(sides_of(side, device.type)[1], device, amp)
    minutes = minutes_of(len(ids), len(test_ids), window, args.refine, args.model)
    steps = ", ".join(f"{some:.1f} of step {step}" for step, some in minutes.items())
    total = sum(minutes.values())
    log.info("about %.0f minutes at the pace that this machine has now: %s", total, steps)


if __name__ == "__main__":
    run(main)
