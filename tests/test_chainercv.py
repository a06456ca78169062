"""Our confusion matrix beside the published evaluation, chainercv's.

chainercv wants an old numpy and Python 3.10, so it runs in an interpreter of its own, which
``CHAINERCV_PYTHON`` names; docs/differences.md says how to make one. ``REAL_MASKS`` may name a
folder of ground-truth PNGs, which are then compared too.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tool.metrics import confusion, iou_of, miou_of
from tool.pictures import read_mask

PYTHON, REAL = (os.environ.get(name) for name in ("CHAINERCV_PYTHON", "REAL_MASKS"))
NUM_CLASSES = 21
THEIRS = """
import sys
import numpy as np
from chainercv.evaluations import calc_semantic_segmentation_confusion
from chainercv.evaluations import calc_semantic_segmentation_iou
with np.load(sys.argv[1]) as file:
    number = len(file.files) // 2
    truth = [file[f"truth{i}"].astype(np.int32) for i in range(number)]
    guess = [file[f"guess{i}"].astype(np.int32) for i in range(number)]
truth = [np.where(t == 255, -1, t) for t in truth]
confusion = calc_semantic_segmentation_confusion(guess, truth)
np.savez(sys.argv[2], confusion=confusion, iou=calc_semantic_segmentation_iou(confusion))
"""


@pytest.mark.skipif(not PYTHON, reason="CHAINERCV_PYTHON names no interpreter with chainercv")
def test_confusion_matrix_is_that_of_chainercv(tmp_path):
    rng = np.random.default_rng(1)
    values = [*range(NUM_CLASSES), 255]
    drawn = [rng.choice(values, (5 + n, 8)).astype(np.uint8) for n in range(6)]
    real = [read_mask(path) for path in sorted(Path(REAL).glob("*.png"))[:60]] if REAL else []
    masks = [*(mask.repeat(9, 0).repeat(7, 1) for mask in drawn), *real]
    # A prediction is the mask moved, with some pixels of other classes; it has no 255.
    guesses = [np.roll(mask, 5, 1) % NUM_CLASSES for mask in masks]
    for guess in guesses:
        wrong = rng.random(guess.shape) < 0.1
        guess[wrong] = rng.integers(0, NUM_CLASSES, wrong.sum())
    arrays = {f"truth{i}": mask for i, mask in enumerate(masks)}
    arrays |= {f"guess{i}": guess for i, guess in enumerate(guesses)}
    np.savez(tmp_path / "masks.npz", **arrays)
    command = [PYTHON, "-c", THEIRS, tmp_path / "masks.npz", tmp_path / "theirs.npz"]
    subprocess.run(command, check=True, timeout=300)
    pairs = zip(masks, guesses, strict=True)
    ours = sum(confusion(NUM_CLASSES, mask, guess) for mask, guess in pairs)
    with np.load(tmp_path / "theirs.npz") as theirs:
        size = len(theirs["confusion"])  # as many classes as occur
        assert np.array_equal(ours[:size, :size], theirs["confusion"])
        assert not ours[size:].any()
        assert np.allclose(iou_of(ours)[:size], theirs["iou"], equal_nan=True, rtol=1e-12)
        assert miou_of(ours) == pytest.approx(np.nanmean(theirs["iou"]), rel=1e-12)
