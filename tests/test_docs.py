"""The documents: links lead somewhere, programs take the flags, the equation table is true."""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import re
import runpy
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
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
# What a document writes in the place of a value, and one that fits.
STAND_INS = {
    "LOW HIGH": "0 1",
    "R G B": "1 2 3",
    "FILE.onnx": "net.onnx",
    "FILE": "file.zip",
    "module:Class": "examples.own_dataset:ClassFolders",
}
COMMAND = re.compile(r"\s*((?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*)((?:python|bash|torchrun)\s.*)", re.S)
# The variables of run_voc.sh and run_coco.sh, and whose flags they hold.
FLAGS = {
    "PREPARE": "data.coco",
    "TRAIN": "train_resnet50_SIPE",
    "CAM": "make_cam",
    "EVAL": "eval_cam",
    "CAM2IR": "cam2ir",
    "IRN": "train_irn",
    "LABEL": "make_seg_labels",
    "SCORE": "eval_seg_labels",
    "SEG": "train_seg",
    "INFER": "infer_seg",
}
# What a document may name in `code` although no file of the project is called so.
FILE = re.compile(r"^[\w./-]+\.(py|sh|md|svg|png|pth|csv|json|yml|toml|txt|cff)$")
WRITTEN = (
    "exp",
    "demo/",
    "ckpt/",
    "eval_",
    "args.",
    "curves",
    "npy/",
    "ir_label/",
    "pseudo_label/",
    "value_range",
    "labelmap.txt",
    "data.yaml",
    "settings.json",
    "curves.csv",
    "sources.json",
    "seconds.txt",
    "summary.json",
    ".made.json",
)
USERS = ("cat.jpg", "classes.txt", "labels.csv", "annotations.json", "colours.csv")
USERS += ("resnet50.pth", "trainaug.txt", "train_aug.txt", "images/cat/x.jpg")


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


def spans(path: Path) -> Iterator[str]:
    """Yield what stands as `code` within the lines of a document, with values for stand-ins."""
    text = re.sub(r"```.*?```|^ {4}.*$", "", path.read_text(), flags=re.S | re.M)
    for span in re.findall(r"`([^`]+)`", text):
        span = " ".join(span.split())
        for name, value in STAND_INS.items():
            span = re.sub(rf"(?<=\s){re.escape(name)}\b", value, span)
        yield span


def commands(path: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield the variables and the words of every command, in code blocks and within lines."""
    text = path.read_text()
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.M) + re.findall(r"```\w*\n(.*?)```", text, re.S)
    lines = [
        line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]  # a remark stands three spaces behind
    lines = [re.split(r" {3,}(?=[^-\s]\S* )", line.strip())[0] for line in lines]
    for line in [*lines, *spans(path)]:
        match = COMMAND.fullmatch(line)
        if match:
            variables = dict(word.split("=", 1) for word in shlex.split(match[1]))
            yield variables, shlex.split(match[2], comments=True)


def test_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    for number, line in enumerate(lines, 1):
        assert len(line) <= 120 or line.startswith(("|", "    ")), f"line {number} is long"


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
        if not FILE.match(word) or word.startswith(WRITTEN) or word.endswith(USERS):
            continue
        assert (REPOSITORY / word).exists() or (document.parent / word).exists(), word


def test_named_flags_exist(document):
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", document.read_text()))
    assert not named - own_flags() - FOREIGN_FLAGS


def test_named_flags_take_their_values(document):
    """``--flag value``, and ``program.py --flag value``, as fragments of a command."""
    for span in spans(document):
        file, _, rest = span.partition(" ")
        if re.fullmatch(r"[\w/]+\.py", file) and rest.startswith("-"):
            assert takes(parser_of(module_of(file)), shlex.split(rest)), span
        elif span.startswith("--") and " " in span:
            words = shlex.split(span)
            assert any(takes(parser_of(program), words) for program in programs()), span


def test_commands_are_understood(document):
    """A program's own parser takes the words of a command."""
    for variables, words in commands(document):
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
        if "/" not in name and hasattr(module, "main") and hasattr(module, "parse_arguments"):
            module.parse_arguments(rest)  # which may refuse more
        assert not variables or set(variables) <= variables_of_scripts()


def variables_of_scripts() -> set[str]:
    """Return the names in capitals that the scripts and programs read."""
    text = "".join(path.read_text() for path in [*SHELL, *REPOSITORY.glob("t*/*.py")])
    return set(re.findall(r"\b[A-Z][A-Z_]+\b", text))


def test_variables_of_the_scripts(document):
    """They exist, and the flags in TRAIN_FLAGS and its like are those of their program."""
    text = re.sub(r"\\\n\s*", "", document.read_text())
    for name in re.findall(r"(?<![\w-])([A-Z][A-Z_]+)=[\w\"/]", text):
        assert name in variables_of_scripts(), name
    for name, flags in re.findall(r'\b([A-Z2]+)_FLAGS="([^"]*)"', text):
        assert takes(parser_of(FLAGS[name]), shlex.split(flags)), (name, flags)


def test_there_are_commands_to_check():
    assert sum(len(list(commands(path))) for path in DOCUMENTS) > 60


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("net.resnet50_SIPE", ["Net", "CAM"]),
        ("net.resnet50_irn", ["EdgeDisplacement", "AffinityDisplacementLoss"]),
        ("net.deeplabv2", ["DeepLabV2_ResNet101_MSC"]),
        ("net.deeplabv1_resnet38", ["DeepLabV1_ResNet38"]),
        ("tool.crf", ["crf_inference_label"]),
        ("tool.checkpoint", ["load_weights"]),
    ],
)
def test_published_names_stay(module, names):
    assert f"`{module}`" in (REPOSITORY / "docs/differences.md").read_text()
    assert all(hasattr(importlib.import_module(module), name) for name in names)


def equations() -> list[tuple[str, str, str]]:
    """Return name, function and file of every row of the README's table."""
    row = re.compile(r"^\| ([\w -]+) \| .* \| `(\w+)` \| `([\w/]+\.py)` \|$", re.M)
    return row.findall(README.read_text())


def test_the_equation_table_has_every_row():
    names = ["CAM", "seed", "prototype", "IS-CAM", "GSC", "confident areas", "affinity", "walk"]
    assert [name for name, _, _ in equations()] == [*names, "CRF", "mIoU"]


@pytest.mark.parametrize(("name", "function", "file"), equations())
def test_equations_are_where_the_table_says(name, function, file):
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    found = getattr(module, function)
    assert found.__module__ == module.__name__, "it is only imported there"
    assert found.__doc__


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
