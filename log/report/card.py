"""SESSION/README.md: what a network was trained on, how, and how well it does."""

import shlex

from log.report.figures import Run

LICENCES = {
    "voc": "PASCAL VOC 2012: pictures from Flickr under its terms of use, for research",
    "coco": "MS COCO 2014: annotations CC BY 4.0; pictures from Flickr under its terms of use",
    "demo": "drawn by this project, MIT licence",
}
LEFT_OUT = {"versions", "session_name"}


def card(run: Run, facts: dict[str, str]) -> str:
    """Return the model card in Markdown.

    Args:
        run: the session.
        facts: versions, by name.
    """
    train = run.settings.get("train_resnet50_SIPE", {})
    lines = [
        f"# {run.path.resolve().name}",
        "",
        "Weakly supervised semantic segmentation by SIPE (CVPR 2022), from image-level labels.",
        "",
        "## Data",
        "",
        f"* dataset: {run.dataset or 'not known'}, list {train.get('train_list') or 'not known'}",
        f"* licence: {LICENCES.get(run.dataset or '', 'not known; ask whoever made the pictures')}",
        "* labels: image-level; masks serve for evaluation alone",
        f"* first weights: {train.get('pretrained') or 'not known'}",
        "",
        "## Figures",
        "",
        f"| step | mIoU | {run.origin} |",
        "|---|---|---|",
    ]
    for stage in run.stages():
        ours = "not measured" if stage.miou is None else f"{stage.miou:.2f}"
        theirs = "" if stage.goal is None else f"{stage.goal:.4g}"
        lines.append(f"| {stage.title} | {ours} | {theirs} |")
    lines += ["", run.scope] if run.scope else []
    lines += ["", "## Commands", ""]
    for program, settings in run.settings.items():
        words = [f"{program}.py"]
        for name, value in settings.items():
            if name in LEFT_OUT or value is None or value is False:
                continue
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        words = [word for word in words if word != "True"]
        lines += [f"    python {shlex.join(words)}", ""]
    lines += ["## Versions", "", *(f"* {name}: {value}" for name, value in facts.items())]
    return "\n".join(lines) + "\n"
