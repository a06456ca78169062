"""How the steps begin: what their command lines name is opened and compared, or refused."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from data.base import Dataset, check_exist
from data.datasets import open_dataset
from data.loaders import RandomViews
from data.reading import note_reading
from tool import cli
from tool.reader import text_digest
from tool.record import settings_of
from tool.session import Session
from tool.training import Training


def open_session(args: cli.Settings, program: str) -> tuple[Session, torch.device, Dataset]:
    """Return the session of a step script, the device and the dataset that its flags name."""
    session = Session(args.session_name, program, args)
    device = cli.pick_device(args.device, getattr(args, "tf32", True))
    dataset = open_dataset(args)
    session.notes.append(partial(note_reading, dataset, args))
    return session, device, dataset


def open_training(
    args: cli.Settings,
    program: str,
    name: str,
    flag: str,
    batch_size: int,
    views: Callable[[Dataset, list[str]], RandomViews],
) -> tuple[torch.device, RandomViews, Training]:
    """Return the device, the pictures to learn from and the training that a trainer's flags name.

    ``args.train_list`` and ``args.pretrained`` become the dataset's own where they are None.

    Args:
        args: settings of the trainer.
        program: name of the trainer.
        name: of its files, see :class:`tool.training.Training`.
        flag: that says how many pictures a step takes, with its value.
        batch_size: their number.
        views: makes the pictures of a dataset and a list.

    Raises:
        InputError: pictures or labels are missing, or an earlier run in the session was another.
    """
    session, device, dataset = open_session(args, program)
    args.train_list = args.train_list or dataset.train_list
    args.pretrained = args.pretrained or dataset.pretrained
    ids = dataset.training_ids(args.train_list, batch_size, flag)
    pictures = views(dataset, ids)
    if pictures.folder:
        remedy = f"Make them of --infer_list {args.train_list}: {pictures.makers}"
        check_exist(pictures.label_files, "labels", remedy)
        settings_of(pictures.folder, dataset.all_names)  # of these classes, and in this order
    is_file = os.path.isfile(args.pretrained)
    learnt = "" if pictures.labels is None else pictures.labels.tobytes().hex()
    sources = {
        "train_list": f"{len(ids)} pictures, {text_digest(*ids, learnt)}",
        "pictures": [dataset.image_path(image_id) for image_id in ids],
        "pretrained": [Path(args.pretrained)] if is_file else str(args.pretrained),
        "label_files": pictures.label_files,
    }
    settings, names = cli.deciding(args), dataset.all_names
    training = Training(session, name, settings, names, sources, args.restart, args.safetensors)
    training.about["input"] = dataset.reading
    torch.backends.cudnn.benchmark = True  # every batch has the same size
    return device, pictures, training
