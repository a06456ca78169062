"""Drawings of curves by matplotlib."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from log.curves import LOSS, Curves

FEW = 30  # rows that are drawn as they are: a mean over most of them shows nothing
SMOOTH = 11  # rows in the running mean that is drawn over the raw losses
TITLES = {
    "loss_cls": "classification loss",
    "loss_gsc": "general-specific consistency loss",
    "miou": "mIoU in validation (%)",
}
COLOURS = ("#8a929b", "#2f7de1")  # theirs and ours; both show on white and on black
INK = "#7c858e"
LOOK = {
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return the mean of up to ``SMOOTH`` values, of at least as many, centred on each."""
    window = np.ones(SMOOTH)
    sums = np.convolve(values, window, "same")
    return sums / np.convolve(np.ones(len(values)), window, "same")


def names_of(runs: dict[str, Curves]) -> list[str]:
    """Return the names of all curves that can be drawn: losses, and mIoU."""
    return list(dict.fromkeys(name for run in runs.values() for name in run.names(LOSS, "miou")))


def draw(runs: dict[str, Curves], names: list[str], height: float = 4) -> Figure:
    """Return a picture with a panel for every name, in it the curve of each run; ours is last."""
    figure = Figure(figsize=(13 / 3 * len(names), height), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    colours = dict(zip(runs, COLOURS[-len(runs) :], strict=True))
    for axes, name in zip(panels, names, strict=True):
        is_loss = name.startswith(LOSS)
        for label, run in runs.items():
            curve, colour = run.of(name), colours[label]
            values = np.array([*curve.values()]) * (1 if is_loss else 100)
            if is_loss and len(values) >= FEW:
                axes.plot([*curve], values, color=colour, alpha=0.3, linewidth=0.8)
                axes.plot([*curve], smooth(values), color=colour, label=label)
            else:
                axes.plot([*curve], values, "o-", color=colour, label=label)
        axes.set_title(TITLES.get(name, name), parse_math=False)
        axes.set(xlabel="step", yscale="log" if is_loss else "linear")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def svg(runs: dict[str, Curves], name: str) -> str:
    """Return a picture of one curve as SVG without background, prolog or links."""
    file, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(LOOK | {"svg.hashsalt": name}):
        figure = draw(runs, [name], height=2.8)
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :]
