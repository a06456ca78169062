"""Drawings of curves by matplotlib: one picture of all for a file, or an SVG each for a page."""

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from log.curves import Curves

SMOOTH = 11  # rows in the running mean that is drawn over the raw losses
TITLES = {
    "loss_cls": "classification loss",
    "loss_gsc": "general-specific consistency loss",
    "miou": "mIoU in validation (%)",
}
OURS, THEIRS = "#2f7de1", "#8a929b"  # both show on white and on black
INK = "#7c858e"
LOOK = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
FEW = 30  # rows that are drawn as they are


def smooth(curve: dict[int, float]) -> tuple[list[int], list[float]]:
    """Return steps and the mean of up to ``SMOOTH`` rows centred on each."""
    steps, values = list(curve), list(curve.values())
    half = SMOOTH // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return steps, [sum(window) / len(window) for window in windows]


def names_of(runs: dict[str, Curves]) -> dict[str, str]:
    """Return name and title of every curve that one of the runs has: losses, and mIoU."""
    names = [name for curves in runs.values() for name in curves.losses]
    names += ["miou" for curves in runs.values() if curves.of("miou")]
    return {name: TITLES.get(name, name) for name in sorted(names, key=lambda n: n == "miou")}


def draw(axes: Axes, name: str, runs: dict[str, Curves]) -> None:
    """Draw one curve of some runs, named for the legend; the last one is ours."""
    for (label, curves), colour in zip(runs.items(), [THEIRS, OURS][-len(runs) :], strict=True):
        curve = curves.of(name)
        look = {"color": colour, "label": label}
        if name == "miou":
            axes.plot(list(curve), [100 * value for value in curve.values()], "o-", **look)
        elif len(curve) < FEW:
            axes.plot(list(curve), list(curve.values()), ".-", **look)
        else:
            axes.plot(list(curve), list(curve.values()), color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(*smooth(curve), **look)
    axes.set(xlabel="step", yscale="linear" if name == "miou" else "log")
    axes.grid(alpha=0.3)


def picture(runs: dict[str, Curves]) -> Figure:
    """Return all curves of some runs beside each other, with titles and legends."""
    titles = names_of(runs)
    figure = Figure(figsize=(13 / 3 * len(titles), 4), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        draw(axes, name, runs)
        axes.set_title(title, parse_math=False)
        axes.legend()
    return figure


def svgs(runs: dict[str, Curves]) -> list[tuple[str, str]]:
    """Return title and SVG of every curve, without background, prolog or links."""
    return [(title, _svg(name, runs)) for name, title in names_of(runs).items()]


def _svg(name: str, runs: dict[str, Curves]) -> str:
    file, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(LOOK | {"svg.hashsalt": name}):
        figure = Figure(figsize=(5, 2.6), layout="constrained")
        draw(figure.subplots(), name, runs)
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    return svg[svg.index("<svg") :]
