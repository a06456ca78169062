"""The documents: links lead somewhere, flags and commands exist, the equation table is true."""

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
DOCUMENTS = [
    *(README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "log/README.md",
]
NAMES = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
CODE = [
    *(path for path in sorted(REPOSITORY.glob("*.py"))),
    *(
        path
        for folder in ("net", "data", "tool", "log", "examples", "benchmarks", "tests")
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
    ),
]
# Flags of torchrun, ruff and pip.
FOREIGN_FLAGS = {
    "--no-build-isolation",
    "--nproc_per_node",
    "--nnodes",
    "--rdzv_backend",
    "--rdzv_endpoint",
    "--check",
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
)
USERS = ("cat.jpg", "classes.txt", "labels.csv", "annotations.json", "colours.csv")
USERS += ("resnet50.pth", "trainaug.txt", "train_aug.txt", "images/cat/x.jpg")


@pytest.fixture(params=DOCUMENTS, ids=NAMES)
def document(request) -> Path:
    return request.param


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of every command line in the code blocks of a document."""
    text = path.read_text()
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.M) + re.findall(r"```\w*\n(.*?)```", text, re.S)
    for block in blocks:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if re.match(r"\s*([A-Z_]+=\S+ )*(python|bash|torchrun)\s", line):
                yield shlex.split(re.split(r" {3,}(?=\S+ \S+ )|   # ", line.strip())[0])


def own_flags() -> set[str]:
    """Return every flag that some program defines, and the --no- form of switches."""
    flags = set()
    for path in CODE:
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            words = [word.value for word in call.args if isinstance(word, ast.Constant)]
            if ast.unparse(call.func) == "add":  # of step 3: a flag of the recipes
                words = [f"--{str(word).removeprefix('--')}" for word in words]
            own = {word for word in words if isinstance(word, str) and word.startswith("--")}
            flags |= own
            if any("BooleanOptionalAction" in ast.unparse(word) for word in call.keywords):
                flags |= {f"--no-{flag[2:]}" for flag in own}
    return flags


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
    assert not named - own_flags() - FOREIGN_FLAGS - {"--help"}


def test_commands_are_understood(document):
    """Programs and modules exist, and a step's parser takes the flags as they stand there."""
    for words in commands(document):
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "bash":
            assert (REPOSITORY / words[1]).is_file(), words
            continue
        if words[0] == "torchrun":
            words = [
                words[0],
                *(word for word in words[1:] if word.split("=")[0] not in FOREIGN_FLAGS),
            ]
        name = words[2] if words[1] == "-m" else words[1].removesuffix(".py").replace("/", ".")
        assert importlib.util.find_spec(name), words
        module = importlib.import_module(name)
        if hasattr(module, "parse_arguments") and words[1] != "-m":
            module.parse_arguments(words[2:])


def test_there_are_commands_to_check():
    assert sum(len(list(commands(path))) for path in DOCUMENTS) > 30


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
