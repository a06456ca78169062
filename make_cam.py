"""Step 1.2: localization maps (IS-CAM) of whole pictures, at four scales with mirror.

Reads   <session>/ckpt/final.pth, the pictures of --infer_list and their image labels
Writes  <session>/npy/<id>.npz (keys, IS_CAM and, when asked, CAM), <session>/visual/ when asked
Try     python make_cam.py --dataset voc --session_name exp
Expect  VOC trainaug: 10,582 files, 20 GB in float32 (half with --save_dtype float16).

Files that exist are kept, so running the same command again finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.base import Dataset
from data.datasets import add_dataset_flags, open_dataset
from data.drawings import draw_missing
from data.loaders import ScaledPictures, one_by_one, to_device
from net.resnet50 import backbone_width, fold_batch_norm
from net.resnet50_SIPE import CAM_EPS, COMPETITORS, SEED_FEATURES
from tool import checkpoint, cli, distributed
from tool.errors import naming
from tool.files import safe_name
from tool.maps import FORMATS, maps_path, read_keys, read_maps, write_maps
from tool.memory import enough_memory
from tool.outputs import Outputs
from tool.pictures import heat, overlay, save_rgb, stored_size
from tool.progress import progress
from tool.run import run
from tool.session import Session

SCALES = (1.0, 0.5, 1.5, 2.0)
GPU_BATCH = 4  # pictures of one size in a forward pass on CUDA
SMALLER = "Lower --batch_size or --scales, or reduce the pictures."
WAITING = 8  # pictures whose files are being written while the network goes on

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    cli.add_network_flag(parser)
    cli.add_speed_flags(parser)
    cli.add_fold_flag(parser)
    parser.add_argument(
        "--ckpt", default="final.pth", help="a path, or a file in <session>/ckpt; released ones too"
    )
    parser.add_argument(
        "--infer_list",
        help="list name or file; None is the training list, which the later steps need whole",
    )
    parser.add_deciding(
        "--scales", type=cli.above_zero, nargs="+", default=SCALES, help="of the pictures"
    )
    parser.add_deciding(
        "--seed_feature",
        choices=SEED_FEATURES,
        default=SEED_FEATURES[0],
        help="similarities from F_h (released code) or from x4 (as in training)",
    )
    parser.add_deciding(
        "--competitors",
        choices=COMPETITORS,
        default=COMPETITORS[0],
        help="classes that compete for seeds: all (released code) or those in the label",
    )
    parser.add_deciding(
        "--save_format",
        choices=FORMATS,
        default=FORMATS[0],
        help="npy is the pickled dict of the published code, for tools that expect it",
    )
    parser.add_deciding(
        "--save_dtype",
        choices=("float32", "float16"),
        help="of the stored maps; None is float32, of COCO float16",
    )
    parser.add_deciding(
        "--save_scale",
        type=cli.above_zero,
        help="side of the stored maps over that of the picture, up to 1; they are resized when "
        "read; None is 1, of COCO 0.5",
    )
    parser.add_argument(
        "--batch_size",
        type=cli.at_least(0),
        default=0,
        help=f"pictures of one size at once; 0 is 1 on the CPU, {GPU_BATCH} on CUDA",
    )
    parser.add_deciding(
        "--save_cam", action="store_true", help="plain CAM too, for eval_cam.py to compare"
    )
    cli.add_visualize_flag(parser, "maps over pictures in <session>/visual")
    parser.add_argument("--restart", action="store_true", help="make every file again")
    args = parser.parse_args(arguments)
    if args.save_scale is not None and args.save_scale > 1:
        parser.error(f"--save_scale {args.save_scale} is above 1")
    return args


def infer(
    net: nn.Module,
    pictures: list[Tensor],
    labels: Tensor,
    size: tuple[int, int],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[tuple[Tensor, Tensor]]:
    """Return the maps of the present classes, fused over scales, of pictures of one size.

    Each scale's maps are resized bilinearly and summed; every class is divided by (its maximum +
    1e-5).

    Args:
        net: :class:`net.resnet50_SIPE.CAM` or one like it; ``forward_pairs`` serves several
            pictures.
        pictures: uint8 (B, 3, h, w) a scale, on the network's device.
        labels: (B, C) in {0, 1}, background 1, there too.
        size: (H, W) of the maps, usually that of the pictures.
        memory_format: what the network takes pictures in.

    Returns:
        Of each picture cam (P - 1, H, W) in [0, 1], plain CAM of the present foreground classes,
        and is_cam (P, H, W) in [0, 1], background first.
    """
    present = [label.nonzero()[:, 0] for label in labels]
    sums = [0] * len(labels)
    masks = labels[:, :, None, None].float()  # (B, C, 1, 1)
    for one_scale in pictures:
        img = net.prepare(one_scale)
        pairs = torch.stack([img, img.flip(3)], 1)  # (B, 2, 3, h, w)
        pairs = pairs.flatten(0, 1).contiguous(memory_format=memory_format)
        if len(labels) == 1:
            cams, is_cams = (maps[None] for maps in net(pairs, masks[0]))
        else:
            cams, is_cams = net.forward_pairs(pairs, masks)  # (B, C, h, w)
        for i, keys in enumerate(present):
            both = torch.cat([cams[i, keys[1:]], is_cams[i, keys]])[None]  # (1, 2P - 1, h, w)
            sums[i] = sums[i] + F.interpolate(both, size, mode="bilinear", align_corners=False)[0]
    maps = [both / (both.amax((1, 2), keepdim=True) + CAM_EPS) for both in sums]
    return [
        (both[: len(keys) - 1], both[len(keys) - 1 :])
        for both, keys in zip(maps, present, strict=True)
    ]


def batches(items: Iterable[dict], most: int) -> Iterator[list[dict]]:
    """Yield runs of at most ``most`` items whose pictures have the same size."""
    run: list[dict] = []
    for item in items:
        if run and (len(run) == most or item["size"] != run[0]["size"]):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def drawing_path(session: Path, image_id: str, name: str = "background") -> Path:
    """Return where the drawing of a map lies, by the name of its class."""
    return session / "visual" / f"{safe_name(image_id)}_{safe_name(name)}.png"


def visualize(session: Path, image_id: str, picture: np.ndarray, names, is_cam: Tensor) -> None:
    """Write one heat map over the picture for each map; that of background is the last one."""
    is_cam = F.interpolate(is_cam[None].float(), picture.shape[:2], mode="bilinear")[0]
    for name, one in reversed(list(zip(names, is_cam.numpy(), strict=True))):
        save_rgb(drawing_path(session, image_id, name), overlay(picture, heat(one)))


def visualize_stored(session: Path, dataset: Dataset, image_id: str) -> None:
    """Draw the maps of a picture that are there."""
    maps = read_maps(session / "npy", image_id)
    names = [dataset.all_names[key] for key in maps["keys"]]
    is_cam = torch.from_numpy(maps["IS_CAM"])
    visualize(session, image_id, np.array(dataset.read(image_id)), names, is_cam)


class Writer:
    """Writes maps in threads while the network goes on, at most some pictures behind it.

    Args:
        session: the session's folder.
        class_names: of all C classes, for the names of drawings.
        args: the settings.
        behind: files that may be waiting.
    """

    def __init__(self, session: Path, class_names: tuple[str, ...], args, behind: int) -> None:
        self.session, self.class_names, self.args = session, class_names, args
        self.behind = behind
        self.threads = ThreadPoolExecutor(2)
        self.pending: deque[Future] = deque()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.threads.shutdown()

    def add(self, item: dict, keys: np.ndarray, cam: Tensor, is_cam: Tensor) -> None:
        """Take the maps of one picture, see :func:`infer`, with the class ids (P,) of is_cam."""
        is_cam = is_cam.cpu()
        maps = {"keys": keys, "IS_CAM": is_cam.numpy().astype(self.args.save_dtype)}
        if self.args.save_cam:
            maps["CAM"] = cam.cpu().numpy().astype(self.args.save_dtype)
        if self.args.save_scale != 1:
            maps["size"] = np.array(item["size"])
        path = maps_path(self.session / "npy", item["id"], self.args.save_format)
        self.pending.append(self.threads.submit(write_maps, path, maps))
        if self.args.visualize:
            names = [self.class_names[key] for key in keys]
            what = (self.session, item["id"], item["original"], names, is_cam)
            self.pending.append(self.threads.submit(visualize, *what))
        self.wait(self.behind)

    def wait(self, left: int = 0) -> None:
        """Wait until so many files are left, and raise what went wrong with the others."""
        while len(self.pending) > left:
            self.pending.popleft().result()


def main(arguments: list[str] | None = None) -> None:
    """Write the maps of every picture on the list."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "make_cam", args)
    device = cli.pick_device(args.device)
    dataset = open_dataset(args)
    args.save_dtype = args.save_dtype or dataset.maps_dtype
    if args.save_scale is None:  # other tools expect maps of full size in the published format
        args.save_scale = dataset.maps_scale if args.save_format == FORMATS[0] else 1.0
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)
    labels = np.pad(dataset.labels(ids), ((0, 0), (1, 0)), constant_values=1)  # (n, C)
    keys = {image_id: label.nonzero()[0] for image_id, label in zip(ids, labels, strict=True)}

    ckpt = session.checkpoint(args.ckpt)
    content = checkpoint.load(ckpt)
    checkpoint.check_classes(ckpt, content, dataset.all_names)
    with naming(ckpt):
        state = checkpoint.state_dict_of(content)
    net = cli.import_network(args.network).CAM(
        dataset.num_classes,
        pretrained=None,
        width=backbone_width(state, ckpt),
        seed_feature=args.seed_feature,
        competitors=args.competitors,
    )
    checkpoint.load_weights(net, state, ckpt)
    if args.fold_bn:
        fold_batch_norm(net.eval())
    cli.place(net, args, device).eval()

    folder = session.path / "npy"
    settings = {**cli.deciding(args), "ckpt_sha256": checkpoint.digest(ckpt)}
    outputs = Outputs(
        folder,
        "make_cam",
        settings,
        dataset.all_names,
        ids,
        lambda image_id: maps_path(folder, image_id, args.save_format),
    )

    def labels_changed(path: Path, image_id: str) -> bool:
        return read_keys(path) not in (None, keys[image_id].tolist())

    todo = outputs.open(args.restart, device, labels_changed)
    most = args.batch_size or (1 if device.type == "cpu" else GPU_BATCH)
    if most > 1:
        todo.sort(key=lambda image_id: stored_size(dataset.image_path(image_id)))

    pictures = ScaledPictures(dataset, todo, tuple(args.scales), with_original=args.visualize)
    loader = one_by_one(pictures, args.num_workers)
    writer = Writer(session.path, dataset.all_names, args, WAITING * most)
    with torch.inference_mode(), writer:
        for items in progress(batches(loader, most), len(todo), "make_cam", len):
            by_scale = zip(*(item["pictures"] for item in items), strict=True)
            labels = np.stack([item["label"] for item in items])
            labels, *scaled = to_device((labels, *map(np.stack, by_scale)), device)
            labels = F.pad(labels, (1, 0), value=1)
            size = tuple(max(1, round(side * args.save_scale)) for side in items[0]["size"])
            names = ", ".join(item["id"] for item in items)
            with enough_memory(names, SMALLER), cli.autocast(args, device):
                maps = infer(net, scaled, labels, size, cli.memory_format(args))
            for item, both in zip(items, maps, strict=True):
                writer.add(item, keys[item["id"]], *both)
        writer.wait()
    if args.visualize:
        done = sorted(set(distributed.share(ids)).difference(todo))
        stored = [image_id for image_id in done if maps_path(folder, image_id).exists()]
        if len(stored) < len(done):
            log.warning("pickles in %s are not opened; --restart draws their maps", folder)
        draw_missing(
            stored,
            partial(maps_path, folder),
            partial(drawing_path, session.path),
            partial(visualize_stored, session.path, dataset),
            args.num_workers,
        )
    outputs.finish()


if __name__ == "__main__":
    run(main)
