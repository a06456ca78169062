"""The page: one HTML file that fetches nothing, for light and dark, small and wide screens."""

import html
from collections.abc import Iterable

from log import compare
from log.report.figures import Run, confusions
from log.report.gallery import Shown
from tool.pictures import label_colours

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --faint: #66707a; --line: #d9dee3;
  --paper: #fbfcfd; --card: #fff; --ours: #2266cc; --theirs: #a0a8b0; --bad: #b3402a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --faint: #9aa4ae; --line: #343b42;
  --paper: #14181b; --card: #1b2024; --ours: #6aa5ff; --theirs: #6b757e; --bad: #ff8f73; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 1.5rem clamp(.8rem, 3vw, 3rem) 4rem;
  background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; }
p, dd, figcaption { color: var(--faint); } p { margin: .3rem 0; max-width: 70ch; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 500; }
td.n, th.n { text-align: right; white-space: nowrap; } .missing { color: var(--faint); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0 3rem; align-items: start; }
.bar { display: grid; grid-template-columns: minmax(5rem, 9rem) 1fr 3.2rem; gap: .6rem;
  align-items: center; font-variant-numeric: tabular-nums; }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; }
.bar i { display: block; height: .6rem; border-radius: .3rem; background: var(--ours); }
.bar i + i { margin-top: 2px; background: var(--theirs); } .bar b { font-weight: 400;
  text-align: right; }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font: 11px system-ui; }
svg line { stroke: var(--line); } .ours { stroke: var(--ours); } .theirs { stroke: var(--theirs); }
.key { display: inline-block; width: 1.2rem; height: .25rem; vertical-align: middle;
  margin: 0 .3rem 0 .8rem; }
.name { white-space: nowrap; }
figure { margin: 0 0 1.2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; padding: .7rem; }
figcaption { margin-bottom: .4rem; overflow-wrap: anywhere; } figcaption b { color: var(--ink); }
.gallery { display: grid; gap: 0 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 40rem), 1fr)); }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: .5rem; }
.row div { font-size: .8rem; color: var(--faint); min-width: 0; } .row img { width: 100%;
  display: block; border-radius: .25rem; }
details { margin: .4rem 0; } summary { cursor: pointer; } code { font-size: .85rem;
  overflow-wrap: anywhere; }
"""
FEW = 12  # points of a curve that are marked
WIDTH, HEIGHT, LEFT, BOTTOM = 460, 220, 46, 24  # of a curve's drawing, and its margins


def page(run: Run, pictures: Iterable[Shown], facts: dict[str, str]) -> str:
    """Return the HTML.

    Args:
        run: the session.
        pictures: of :func:`log.report.gallery.gallery`.
        facts: versions and such, by name.
    """
    name = html.escape(run.path.resolve().name)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: SIPE</title><style>{STYLE}</style></head><body>",
        f"<h1>{name}</h1><p>SIPE on {html.escape(run.dataset or 'an unknown dataset')}: from "
        "image-level labels to masks.</p>",
        "<h2>Figures</h2>",
        _figures(run),
        "<h2>Classes</h2>",
        _classes(run),
        "<h2>Training</h2>",
        _curves(run),
        "<h2>Mistakes</h2>",
        _mistakes(run),
        "<h2>Pictures</h2>",
        _gallery(pictures, run.results.get("cam", {}).get("iou", {})),
        '<div class="two"><div><h2>Times</h2>',
        _table([(step, _clock(s)) for step, s in run.seconds.items()], "no run_*.sh has run"),
        "</div><div><h2>Versions</h2>",
        _table(list(facts.items()), "not known"),
        "</div></div><h2>Settings</h2>",
        *(_settings(program, values) for program, values in run.settings.items()),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _number(value: float | None, missing: str = "not measured") -> str:
    if value is None:
        return f'<td class="n missing">{missing}</td>'
    return f'<td class="n">{value:.2f}</td>'


def _figures(run: Run) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(stage.title)}</td>{_number(stage.miou)}"
        f"{_number(stage.goal, '')}<td>{html.escape(stage.note)}</td></tr>"
        for stage in run.stages()
    )
    head = '<th>mIoU in percent</th><th class="n">this run</th>'
    head += f'<th class="n">{run.origin}</th>'
    scope = f"<p>{html.escape(run.scope)}</p>" if run.scope else ""
    return f"<table><tr>{head}<th></th></tr>{rows}</table>{scope}"


def _classes(run: Run) -> str:
    judged = [(n, run.results[n]) for n in ("cam", "pseudo_label") if n in run.results]
    if not judged:
        return "<p>No evaluation has run.</p>"
    titles = {"cam": "IS-CAM", "pseudo_label": "pseudo labels"}
    keys = ("var(--theirs)", "var(--ours)")[-len(judged) :]
    legend = "".join(
        f'<span class="key" style="background:{key}"></span>{titles[name]}'
        for key, (name, _) in zip(keys, judged, strict=True)
    )
    bars = []
    for name in judged[-1][1]["iou"]:
        values = [result["iou"].get(name) for _, result in judged][::-1]
        lines = "".join(f'<i style="width:{100 * (v or 0):.1f}%"></i>' for v in values)
        shown = "-" if values[0] is None else f"{100 * values[0]:.1f}"
        text = html.escape(name)
        bars.append(
            f'<div class="bar"><span title="{text}">{text}</span><span>{lines}</span>'
            f"<b>{shown}</b></div>"
        )
    return f'<p>IoU in percent: {legend}</p><div class="two">{"".join(bars)}</div>'


def _curves(run: Run) -> str:
    if run.curves is None:
        return "<p>There is no log of a training in this session.</p>"
    theirs = compare.read_published(run.beside) if run.beside else None
    drawn = []
    for title, name, factor in (
        ("classification loss", "loss_cls", 1),
        ("consistency loss", "loss_gsc", 1),
        ("mIoU in validation, %", "miou", 100),
    ):
        pairs = [("theirs", theirs), ("ours", run.curves)]
        curves = [
            (style, {s: factor * v for s, v in getattr(curves, name).items()})
            for style, curves in pairs
            if curves and getattr(curves, name)
        ]
        drawn.append(f"<div><p>{title}</p>{_svg(curves)}</div>")
    legend = '<span class="key" style="background:var(--ours)"></span>this run'
    if theirs:
        key = '<span class="key" style="background:var(--theirs)"></span>'
        legend += f"{key}{html.escape(run.beside or '')}"
    return f'<p>{legend}</p><div class="two">{"".join(drawn)}</div>'


def _svg(curves: list[tuple[str, dict[int, float]]]) -> str:
    """Return curves with axes; the highest 2 % of the values may lie above the drawing."""
    values = sorted(v for _, curve in curves for v in curve.values() if v == v)
    if not values:
        return '<p class="missing">Nothing was logged.</p>'
    top = values[min(len(values) - 1, int(0.98 * len(values)))] * 1.05 or 1
    last = max(step for _, curve in curves for step in curve) or 1
    parts = []
    for share in (0, 0.5, 1):
        y = 8 + (1 - share) * (HEIGHT - BOTTOM - 8)
        x = LEFT + share * (WIDTH - LEFT - 30)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">')
        parts.append(f"{share * top:.3g}</text>")
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - 6}">{share * last:.0f}</text>')
    for style, curve in curves:
        points = " ".join(
            f"{LEFT + step / last * (WIDTH - LEFT - 2):.1f},"
            f"{8 + (1 - min(value / top, 1)) * (HEIGHT - BOTTOM - 8):.1f}"
            for step, value in sorted(curve.items())
            if value == value
        )
        parts.append(
            f'<polyline class="{style}" fill="none" stroke-width="1.5" points="{points}"/>'
        )
        for x, y in (p.split(",") for p in points.split() if len(curve) <= FEW):
            parts.append(f'<circle class="{style}" fill="none" cx="{x}" cy="{y}" r="2.5"/>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def _mistakes(run: Run) -> str:
    for name, what in (("pseudo_label", "pseudo labels"), ("cam", "IS-CAM")):
        rows = confusions(run.results.get(name, {}))
        if rows:
            lines = "".join(
                f"<tr><td>{html.escape(true)}</td><td>{html.escape(told)}</td>"
                f'<td class="n">{100 * share:.1f}</td></tr>'
                for true, told, share in rows
            )
            head = '<th>true</th><th>told</th><th class="n">% of the true pixels</th>'
            return f"<p>Of the {what}:</p><table><tr>{head}</tr>{lines}</table>"
    return "<p>No evaluation has counted them.</p>"


def _gallery(pictures: Iterable[Shown], names: Iterable[str]) -> str:
    figures = []
    for shown in pictures:
        drawn = "".join(
            f'<div><img alt="{title}" src="{url}">{title}</div>' for title, url in shown.drawings
        )
        figures.append(
            f"<figure><figcaption><b>{html.escape(shown.image_id)}</b> mIoU "
            f"{100 * shown.miou:.1f}, {shown.why}</figcaption>"
            f'<div class="row">{drawn}</div></figure>'
        )
    if not figures:
        return "<p>No evaluation has judged single pictures.</p>"
    return f'{_legend(names)}<div class="gallery">{"".join(figures)}</div>'


def _legend(names: Iterable[str]) -> str:
    """Return the classes in the colours of the drawings."""
    colours = [",".join(map(str, colour)) for colour in label_colours().tolist()]
    keys = [
        f'<span class="name"><span class="key" style="background:rgb({colour})"></span>'
        f"{html.escape(name)}</span>"
        for name, colour in zip(names, colours, strict=False)
    ]
    return f"<p>{' '.join(keys[1:])}</p>"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _table(rows: list[tuple[str, str]], missing: str) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>" if cells else f'<p class="missing">{missing}</p>'


def _settings(program: str, values: dict) -> str:
    words = " ".join(f"{n}={v}" for n, v in values.items() if n != "versions" and v is not None)
    return (
        f"<details><summary>{html.escape(program)}</summary><code>{html.escape(words)}</code>"
        "</details>"
    )
