"""The table of datasets: ``--dataset`` names a row."""

from data.base import Dataset
from data.coco import COCO
from data.demo import Demo
from data.folder import Folder
from data.voc import VOC

DATASETS: dict[str, type[Dataset]] = {d.name: d for d in (VOC, COCO, Demo, Folder)}

__all__ = ["DATASETS", "Dataset"]
