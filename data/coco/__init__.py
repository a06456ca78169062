"""MS COCO 2014: the dataset, and ``python -m data.coco``, which prepares it."""

from data.coco.dataset import COCO

__all__ = ["COCO"]
