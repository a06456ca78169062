"""How the steps begin: what their command lines name is opened and compared, or refused."""

from functools import partial

import torch

from data.base import Dataset
from data.datasets import open_dataset
from data.reading import note_reading
from tool import cli
from tool.session import Session


def open_session(args: cli.Settings, program: str) -> tuple[Session, torch.device, Dataset]:
    """Return the session of a step script, the device and the dataset that its flags name."""
    session = Session(args.session_name, program, args)
    device = cli.pick_device(args.device, getattr(args, "tf32", True))
    dataset = open_dataset(args)
    session.notes.append(partial(note_reading, dataset, args))
    return session, device, dataset
