"""The commands that made a session, as they can be pasted, from its notes.

``args.json`` holds the last call of every program, and the note of a folder what decided its files.
Which flags there are says each program's own parser; nothing that a note names is imported.
"""

import argparse
import importlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from log.figures import SEGMENTATION, Run, kind_of
from tool.cli import Settings
from tool.writer import NOTE, read_note

TRAINERS = ("train_resnet50_SIPE", "train_irn", "train_seg")
PROGRAMS = (
    "train_resnet50_SIPE",
    "make_cam",
    "eval_cam",
    "cam2ir",
    "train_irn",
    "make_seg_labels",
    "eval_seg_labels",
    "train_seg",
    "infer_seg",
    "eval_seg_labels",  # of what infer_seg made
)
MOST_FOLDERS = 100  # of a session that are looked at for notes


def defaults_of(program: str) -> Settings:
    """Return what one of PROGRAMS is set to without flags."""
    return importlib.import_module(program).parse_arguments([])


def commands(run: Run) -> list[str]:
    """Return a command for everything that was made, in the order of the steps."""
    lines = []
    for place, program in enumerate(PROGRAMS):
        for values in _calls(run, program, place) if program in run.settings else ():
            words = words_of(defaults_of(program).parser, run.settings[program] | values)
            lines.append(f"python {shlex.join([f'{program}.py', *words])}")
    return [line for line in dict.fromkeys(lines) if line.isprintable()]


def _calls(run: Run, program: str, place: int) -> Iterator[dict[str, Any]]:
    """Yield how the calls of a program that left a trace differ from its last one."""
    last = run.settings[program]
    if program == "eval_seg_labels":
        for result in run.results.values():
            segmented = kind_of(result) in SEGMENTATION
            if result["program"] == program and segmented == (place > PROGRAMS.index("infer_seg")):
                yield {"label_dir": result["source"], "eval_list": result["list"]}
        return
    folders = []
    for path in sorted(run.path.glob(f"*/{NOTE}"))[:MOST_FOLDERS]:
        note, name = run.part(read_note, path.parent) or {}, path.parent.name
        if note.get("program") == program:
            usual = ("npy", "ir_label", "pseudo_label", f"seg_{note.get('model')}")
            own = None if name in usual else str(Path(str(last.get("session_name")), name))
            folders.append(own)
            yield note | {"out_dir": own}
    if last.get("out_dir") not in folders or not folders:
        yield {}


def words_of(parser: argparse.ArgumentParser, values: dict[str, Any]) -> list[str]:
    """Return the words that a parser makes these values of, without those that are defaults.

    Values that are neither texts, numbers, nor lists of them, and values that no flag has, are left
    out.
    """
    words: list[str] = []
    for action in parser._actions:
        value = values.get(action.dest)
        default = json.loads(json.dumps(action.default, default=str))  # as in args.json
        if not action.option_strings or value is None or value == default:
            continue
        flag = action.option_strings[0]
        if action.nargs == 0:
            switches = {True: action.option_strings[0], False: action.option_strings[-1]}
            words += [switches[value]] if isinstance(value, bool) else []
        elif isinstance(value, list):
            words += [flag, *(str(one) for one in value if isinstance(one, str | int | float))]
        elif isinstance(value, str | int | float):
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return words
