"""The documents: links lead somewhere, programs take the flags, the equation table is true."""

import argparse
import ast
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

import numpy as np
import pytest
from conftest import FLAGS
from torch.distributed.run import get_args_parser

from data.datasets import dataset_class
from data.demo.drawing import CLASS_NAMES, make_picture

REPOSITORY = Path(__file__).parent.parent


def heading(path: Path) -> str:
    """Return the docstring of a module, if it has one."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


README = REPOSITORY / "README.md"
DOCUMENTS = [
    *(README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "log/README.md",
]
NAMES = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
PRODUCTION = [
    file
    for file in sorted(REPOSITORY.rglob("*.py"))
    if ".venv" not in file.parts and not file.name.startswith("test_")
]
SHELL = [*REPOSITORY.glob("*.sh"), *(REPOSITORY / "tool").glob("*.sh")]
# What holds commands: documents, scripts in their remarks, and modules in their docstrings.
TYPED = [*DOCUMENTS, *SHELL, *(f for f in PRODUCTION if "python " in heading(f))]
WITHOUT_FLAGS = ("tests.mass",)  # programs that have no parser
FOREIGN_FLAGS = {"--no-build-isolation", "--output", "--help"}  # of pip, labelme, every program
COMMAND = re.compile(
    r"((?:[A-Z0-9_]+=(?:\"[^\"]*\"|\S+) )*)((?:python|bash|torchrun|labelme)\s.*)", re.S
)
MENTIONED = re.compile(r"python (?:-m )?\S+")  # a program, and not what to type
# The flags of labelme that the documents name.
LABELME = argparse.ArgumentParser("labelme")
LABELME.add_argument("folder")
LABELME.add_argument("--output", required=True)
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
    text = re.sub(r"```.*?```|^ {4}[^\n]*$", "", path.read_text(), flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def lines_of(path: Path) -> list[str]:
    """Return what may be a command: lines of code blocks, docstrings and remarks, and spans."""
    if path.suffix == ".md":
        text = path.read_text()
        blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.M)
        blocks += re.findall(r"```\w*\n(.*?)```", text, re.S)
        within = spans(path)
    elif path.suffix == ".sh":
        blocks, within = ["\n".join(re.findall(r"^# (.*)", path.read_text(), re.M))], []
    else:
        text = re.sub(r"^Try +|[\[\]]|\.\.\.", "", heading(path), flags=re.M)
        flags = re.search(r'FLAGS="(.*)"', text)
        blocks = [text.replace("$FLAGS", flags[1] if flags else "")]
        within = re.findall(r"``(.*?)``", text, re.S)
    whole = "\n".join(re.sub(r"\\\n\s*", "", block) for block in blocks)
    within = [one for one in within if not MENTIONED.fullmatch(one)]
    # A remark stands three spaces behind.
    lines = [re.split(r" {3,}(?=[^-\s]\S* )", line.strip())[0] for line in whole.splitlines()]
    return [*lines, *(" ".join(span.split()) for span in within)]


def commands(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the settings in front of every command, NAME=VALUE, and its words."""
    for line in lines_of(path):
        match = COMMAND.fullmatch(line)
        if match:
            yield shlex.split(match[1]), shlex.split(match[2], comments=True)


def read_by(script: str) -> set[str]:
    """Return the variables in a script and what it sources, or calls; remarks do not count."""
    text = (REPOSITORY / script).read_text()
    code = re.sub(r"(^|\s)#.*", "", text)
    names = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", code))
    for other in re.findall(r"^\s*source (\S+)", text, re.M):
        names |= read_by(other)
    return names


def words_of_tests() -> set[str]:
    """Return what may be a variable that tests read."""
    files = (REPOSITORY / "tests").glob("*.py")
    return set(re.findall(r"\b[A-Z][A-Z_]+\b", "".join(file.read_text() for file in files)))


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


def parse(words: list[str]) -> None:
    """Give the words of a command to its program's own parser."""
    name, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    if name == "tool.launch":
        args = get_args_parser().parse_args(rest)
        return parse(["python", args.training_script, *args.training_script_args])
    name = module_of(name)
    assert importlib.util.find_spec(name), words
    if name in WITHOUT_FLAGS:
        assert not rest
        return None
    args = parser_of(name).parse_args(rest)
    if getattr(args, "dataset", None):
        assert dataset_class(args.dataset)
    module = importlib.import_module(name)
    if hasattr(module, "parse_arguments"):
        module.parse_arguments(rest)  # which may refuse more
    return None


@pytest.mark.parametrize("path", TYPED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_are_understood(path):
    """A program takes the words of a command, and a script reads the settings in front of it."""
    for settings, words in commands(path):
        if words[0] == "bash":
            names = {setting.partition("=")[0] for setting in settings}
            of_tests = words_of_tests() if words[1] == "run_tests.sh" else set()
            assert names <= read_by(words[1]) | of_tests, (words, settings)
        elif words[0] == "labelme":
            LABELME.parse_args(words[1:])
        else:
            parse(["python", "-m", "tool.launch", *words[1:]] if words[0] == "torchrun" else words)


def test_commands_on_the_demo_name_what_it_has():
    """The pictures of val are drawn after the 300 of train."""
    for words in (words for path in TYPED for _, words in commands(path) if "demo" in words):
        pictures = re.findall(r"demo_data/images/(train|val)_(\d{4})\.png", " ".join(words))
        for name, number in pictures:
            assert int(number) in (range(300) if name == "train" else range(300, 380)), words
        if "--labels" in words:
            _, mask = make_picture(int(pictures[0][1]))
            shown = {CLASS_NAMES[key - 1] for key in np.unique(mask[mask > 0])}
            assert set(words[words.index("--labels") + 1].split(",")) == shown, words


def test_flags_in_variables_are_those_of_their_program(document):
    """And a variable without a command is one of a script's."""
    text = re.sub(r"\\\n\s*", "", document.read_text())
    known = words_of_tests().union(*(read_by(str(path.relative_to(REPOSITORY))) for path in SHELL))
    assert set(re.findall(r"(?<![\w-])([A-Z][A-Z_]+)=[\w\"/]", text)) <= known
    programs = {name: program for program, name in FLAGS.items()} | {
        "PREPARE_FLAGS": "data.coco",
        "FOLDER_FLAGS": "data.folder",
    }
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
