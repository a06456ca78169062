"""The commands that made a session, as they can be pasted, from its notes.

``args.json`` holds the last call of every program, and the note of a folder what decided its files.
Which flags there are says each program's own parser; nothing that a note names is imported.
"""

import argparse
import importlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from log.figures import SEGMENTATION, Run, kind_of
from tool.cli import StepParser
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
)
MOST_FOLDERS = 100  # of a session that are looked at for notes


def parser_of(program: str) -> StepParser:
    """Return the parser of one of PROGRAMS."""
    return importlib.import_module(program).parse_arguments([]).parser


def commands(run: Run) -> list[str]:
    """Return a command for everything that was made, in the order of the steps."""
    lines = [
        (order, f"python {shlex.join([f'{program}.py', *words_of(parser_of(program), values)])}")
        for program in set(PROGRAMS) & set(run.settings)
        for order, values in _calls(run, program, run.settings[program])
    ]
    return [line for line in dict.fromkeys(line for _, line in sorted(lines)) if line.isprintable()]


def _calls(run: Run, program: str, last: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield place in the order, and settings, of every call of a program that left a trace."""
    place = PROGRAMS.index(program)
    if program == "eval_seg_labels":
        for result in run.results.values():
            of_step_3 = kind_of(result) in SEGMENTATION.values()
            if result["program"] == program:
                judged = {"label_dir": result["source"], "eval_list": result["list"]}
                yield len(PROGRAMS) if of_step_3 else place, {**last, **judged}
        return
    folders = set()
    for path in sorted(run.path.glob(f"*/{NOTE}"))[:MOST_FOLDERS]:
        note, name = run.part(read_note, path.parent) or {}, path.parent.name
        if note.get("program") == program:
            usual = name in ("npy", "ir_label", "pseudo_label", f"seg_{note.get('model')}")
            out_dir = None if usual else str(Path(str(last.get("session_name"))) / name)
            folders.add(str(out_dir))
            yield place, {**last, **note, "out_dir": out_dir}
    if not folders or str(last.get("out_dir")) not in folders:
        yield place, last


def words_of(parser: argparse.ArgumentParser, values: dict[str, Any]) -> list[str]:
    """Return the words that a parser makes these values of, without those that are defaults.

    Values that are neither texts, numbers, nor lists of them, and values that no flag has, are left
    out.
    """
    words: list[str] = []
    for action in parser._actions:
        value = values.get(action.dest)
        if not action.option_strings or value is None or value == _plain(action.default):
            continue
        flag = action.option_strings[0]
        if action.nargs == 0:
            words += _switch(action, value)
        elif isinstance(value, list):
            words += [flag, *(str(one) for one in value if isinstance(one, str | int | float))]
        elif isinstance(value, str | int | float):
            dashed = str(value).startswith("-")
            words += [f"{flag}={value}"] if dashed else [flag, str(value)]
    return words


def _switch(action: argparse.Action, value: Any) -> list[str]:
    if value is True:
        return [action.option_strings[0]]
    return [o for o in action.option_strings if value is False and o.startswith("--no-")][:1]


def _plain(default: Any) -> Any:
    """Return a default as JSON would give it back."""
    if isinstance(default, tuple):
        return list(default)
    return str(default) if isinstance(default, Path) else default


def deciding_of(program: str) -> list[str]:
    """Return the names of the flags of one of PROGRAMS that decide what it computes."""
    return [name for name, _ in importlib.import_module(program).parse_arguments([]).deciding]
