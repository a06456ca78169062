"""The documents: links lead somewhere, programs take the flags, the equation table is true."""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from conftest import FLAGS
from torch.distributed.run import get_args_parser

from data.datasets import dataset_class

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
DOCUMENTS = [
    *(README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "log/README.md",
]
NAMES = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
SHELL = [*REPOSITORY.glob("*.sh"), *(REPOSITORY / "tool").glob("*.sh")]
WITHOUT_FLAGS = ("tests.mass", "benchmarks.kernels")  # programs that have no parser
FOREIGN_FLAGS = {"--no-build-isolation", "--help"}  # of pip, and of every program
COMMAND = re.compile(r"\s*(?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*((?:python|bash|torchrun)\s.*)", re.S)
# A file of the project, and what else a document may name like one.
FILE = re.compile(r"^[\w./-]+\.(py|sh|md|svg|yml|toml|cff)$")
WRITTEN = ("exp",)


class Asked(BaseException):
    """A program has made its parser, and asks it."""


@functools.cache
def parser_of(program: str) -> argparse.ArgumentParser:
    """Return the parser of a program, by the name of its module, as it asks it when it starts."""

    def stop(parser: argparse.ArgumentParser, *_) -> None:
        raise Asked(parser)

    with (
        warnings.catch_warnings(),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # another test may have loaded it
        try:
            runpy.run_module(program, run_name="__main__")
        except Asked as asked:
            return asked.args[0]
    raise AssertionError(f"{program} asks no parser")


def programs() -> list[str]:
    """Return the modules that can be started."""
    files = (file for file in REPOSITORY.rglob("*.py") if ".venv" not in file.parts)
    started = (f for f in files if '\nif __name__ == "__main__":' in f.read_text())
    names = [module_of(str(file.relative_to(REPOSITORY))) for file in started]
    return sorted(set(names) - {*WITHOUT_FLAGS, "tool.launch"})


def module_of(file: str) -> str:
    """Return the name by which the program in a file is started."""
    return file.removesuffix(".py").removesuffix("/__main__").replace("/", ".")


def takes(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    """Return whether a parser takes some of the words of a command, whatever else it needs."""
    needed = [action for action in parser._actions if action.required]
    with contextlib.ExitStack() as stack:
        for action in needed:
            stack.enter_context(mock.patch.object(action, "required", False))
        try:
            parser.parse_args(words)
        except SystemExit:
            return False
    return True


def own_flags() -> set[str]:
    """Return every flag of every program, and of torchrun."""
    parsers = [get_args_parser(), *map(parser_of, programs())]
    return {flag for parser in parsers for flag in parser._option_string_actions}


@pytest.fixture(params=DOCUMENTS, ids=NAMES)
def document(request) -> Path:
    return request.param


def spans(path: Path) -> list[str]:
    """Return what stands as `code` within the lines of a document."""
    text = re.sub(r"```.*?```|^ {4}.*$", "", path.read_text(), flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of every command, in code blocks and within lines."""
    text = path.read_text()
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.M) + re.findall(r"```\w*\n(.*?)```", text, re.S)
    lines = [
        line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]  # a remark stands three spaces behind
    lines = [re.split(r" {3,}(?=[^-\s]\S* )", line.strip())[0] for line in lines]
    for line in [*lines, *spans(path)]:
        match = COMMAND.fullmatch(line)
        if match:
            yield shlex.split(match[1], comments=True)


def headings(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"\w+:", target):
            assert target.startswith("https://"), target
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in headings(path), target


def test_every_document_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[^)#]+)", README.read_text()))
    assert linked == {name for name in NAMES if name.startswith("docs/")}


def test_named_files_exist(document):
    for word in re.findall(r"`([^`\s]+)`", document.read_text()):
        if FILE.match(word) and not word.startswith(WRITTEN):
            assert (REPOSITORY / word).exists() or (document.parent / word).exists(), word


def test_named_flags_exist(document):
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", document.read_text()))
    assert not named - own_flags() - FOREIGN_FLAGS


def test_commands_are_understood(document):
    """A program's own parser takes the words of a command."""
    for words in commands(document):
        if words[0] == "bash":
            assert (REPOSITORY / words[1]).is_file(), words
            continue
        if words[0] == "torchrun" or words[1:3] == ["-m", "tool.launch"]:
            args = get_args_parser().parse_args(words[1:] if words[0] == "torchrun" else words[3:])
            words = ["python", args.training_script, *args.training_script_args]
        name, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
        name = module_of(name)
        assert importlib.util.find_spec(name), words
        if name in WITHOUT_FLAGS:
            assert not rest
            continue
        args = parser_of(name).parse_args(rest)
        if getattr(args, "dataset", None):
            assert dataset_class(args.dataset)
        module = importlib.import_module(name)
        if hasattr(module, "parse_arguments"):
            module.parse_arguments(rest)  # which may refuse more


def test_variables_of_the_scripts(document):
    """They exist, and the flags in TRAIN_FLAGS and its like are those of their program."""
    text = re.sub(r"\\\n\s*", "", document.read_text())
    files = [*SHELL, *REPOSITORY.glob("t*/*.py")]
    known = set(re.findall(r"\b[A-Z][A-Z_]+\b", "".join(path.read_text() for path in files)))
    assert set(re.findall(r"(?<![\w-])([A-Z][A-Z_]+)=[\w\"/]", text)) <= known
    programs = {name: program for program, name in FLAGS.items()} | {"PREPARE_FLAGS": "data.coco"}
    for name, flags in re.findall(r'\b([A-Z2]+_FLAGS)="([^"]*)"', text):
        assert takes(parser_of(programs[name]), shlex.split(flags)), (name, flags)


def test_snippets_are_formatted(document):
    for snippet in re.findall(r"```python\n(.*?)```", document.read_text(), re.S):
        ruff = ["ruff", "format", "--isolated", "--line-length", "100", "--check", "-"]
        end = subprocess.run([sys.executable, "-m", *ruff], input=snippet, text=True)
        assert not end.returncode, snippet


PUBLISHED = {
    "net.resnet50_SIPE": ["Net", "CAM"],
    "net.resnet50_irn": ["EdgeDisplacement", "AffinityDisplacementLoss"],
    "net.deeplabv2": ["DeepLabV2_ResNet101_MSC"],
    "net.deeplabv1_resnet38": ["DeepLabV1_ResNet38"],
    "tool.crf": ["crf_inference_label"],
    "tool.checkpoint": ["load_weights"],
}


@pytest.mark.parametrize("module", PUBLISHED)
def test_published_names_stay(module):
    assert f"`{module}`" in (REPOSITORY / "docs/differences.md").read_text()
    assert all(hasattr(importlib.import_module(module), name) for name in PUBLISHED[module])


def test_equations_are_where_the_table_says():
    row = re.compile(r"^\| ([\w -]+) \| .* \| `(\w+)` \| `([\w/]+\.py)` \|$", re.M)
    names = []
    for name, function, file in row.findall(README.read_text()):
        names.append(name)
        found = getattr(importlib.import_module(module_of(file)), function)
        assert found.__module__ == module_of(file), "it is only imported there"
        assert found.__doc__
    steps = ["CAM", "seed", "prototype", "IS-CAM", "GSC", "confident areas", "affinity", "walk"]
    assert names == [*steps, "CRF", "mIoU"]


def test_tolerances_are_those_of_the_tests():
    """docs/differences.md alone says how closely we agree, and the tests assert as much."""
    text = (REPOSITORY / "docs/differences.md").read_text()
    rows = re.findall(r"^\| .* \| (\de-\d+) \| (`tests/.*`) \|$", text, re.M)
    assert len(rows) >= 4
    for tolerance, files in rows:
        for file in re.findall(r"`(.*?)`", files):
            asserted = rf"(TOLERANCE = |< ){re.escape(tolerance)}\b"
            assert re.search(asserted, (REPOSITORY / file).read_text()), (file, tolerance)
    assert not re.search(r"\b1e-5\b", README.read_text())
