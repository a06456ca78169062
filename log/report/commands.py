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

from log.figures import Run
from tool.cli import Settings
from tool.writer import NOTE, read_note

PROGRAMS = (
    "train_resnet50_SIPE",
    "make_cam",
    "eval_cam",
    "cam2ir",
    "train_irn",
    "make_seg_labels",
    "train_seg",
    "infer_seg",
    "eval_seg_labels",
)


def defaults_of(program: str) -> Settings:
    """Return what one of PROGRAMS is set to without flags."""
    return importlib.import_module(program).parse_arguments([])


def commands(run: Run) -> list[str]:
    """Return a command for everything that was made, in the order of the steps."""
    lines = []
    for program in filter(run.settings.get, PROGRAMS):
        parser, last = defaults_of(program).parser, run.settings[program]
        for values in _calls(run, program):
            words = words_of(parser, last | values)
            lines.append(f"python {shlex.join([f'{program}.py', *words])}")
    return [line for line in dict.fromkeys(lines) if line.isprintable()]


def _calls(run: Run, program: str) -> Iterator[dict[str, Any]]:
    """Yield how the calls of a program that left a trace differ from its last one."""
    if program == "eval_seg_labels":
        results = [one for one in run.results.values() if one["program"] == program]
        yield from ({"label_dir": one["source"], "eval_list": one["list"]} for one in results)
        return
    last, folders = run.settings[program], [None]
    for path in sorted(run.path.glob(f"*/{NOTE}")):
        note = run.part(read_note, path.parent) or {}
        if note.get("program") == program:
            folders.append(str(Path(str(last.get("session_name")), path.parent.name)))
            yield note | {"out_dir": folders[-1]}
    if last.get("out_dir") not in folders or folders == [None]:
        yield {}


def words_of(parser: argparse.ArgumentParser, values: dict[str, Any]) -> list[str]:
    """Return the words that a parser makes these values of, without those that are defaults.

    Values that no flag has are left out.
    """
    words: list[str] = []
    for action in parser._actions:
        value = values.get(action.dest)
        default = json.loads(json.dumps(action.default, default=str))  # as in args.json
        if not action.option_strings or value in (None, default):
            continue
        flag = action.option_strings[0]
        if action.nargs == 0:
            words.append(flag if value else action.option_strings[-1])
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return words
