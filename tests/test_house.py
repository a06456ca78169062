"""The house: which floor imports which, no circles, and files that a reader can hold in mind."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
# A module imports from its own floor and from lower ones; the step programs are the highest.
FLOORS = {"tool": 0, "net": 1, "data": 2}
STEPS = 3
# Folders that may import anything, and that no floor imports.
FREE = ("tests", "benchmarks", "examples", "log")
LONGEST_FILE = 350
LONGEST_MAIN = 80
TRAINERS = ("train_resnet50_SIPE.py", "train_irn.py", "train_seg.py")


def modules_of(root: Path) -> dict[str, Path]:
    """Return name -> file of every module on a floor; a package is the name of its folder."""
    files = [
        *root.glob("*.py"),
        *(file for floor in FLOORS for file in (root / floor).rglob("*.py")),
    ]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(files)
    }


def imports_of(name: str, file: Path) -> set[str]:
    """Return the absolute names that a module imports, wherever in the file the import stands.

    ``from a import b`` gives ``a.b``, which may be a module or a thing in the module ``a``.
    """
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.add(first.value)
    return found


def graph_of(root: Path) -> dict[str, set[str]]:
    """Return module -> what it imports of the project: modules, or folders that are free."""
    modules = modules_of(root)
    graph = {}
    for name, file in modules.items():
        graph[name] = set()
        for target in imports_of(name, file):
            parts = target.split(".")
            names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            module = next((known for known in names if known in modules), None)
            if module or parts[0] in FREE:
                graph[name].add(module or parts[0])
    return graph


def floor_of(module: str) -> int:
    top = module.split(".")[0]
    return STEPS + 1 if top in FREE else FLOORS.get(top, STEPS)


def upward_imports(root: Path) -> list[str]:
    """Return ``a imports b`` for every import from a higher floor, or of one step by another."""
    return [
        f"{name} imports {target}"
        for name, targets in sorted(graph_of(root).items())
        for target in sorted(targets)
        if floor_of(target) > floor_of(name)
        or (floor_of(target) == STEPS == floor_of(name) and target != name)
    ]


def circles(root: Path) -> list[str]:
    """Return a path ``a > b > a`` for every circle that a search from each module meets first."""
    graph, done, found = graph_of(root), set(), []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" > ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, set()) - {module}):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def long_files(root: Path) -> list[str]:
    """Return ``name: lines`` of every production file above LONGEST_FILE lines."""
    files = [*modules_of(root).values(), *(root / "log").glob("*.py")]
    files += (root / "examples").glob("*.py")
    lengths = {file.relative_to(root): len(file.read_text().splitlines()) for file in files}
    return [f"{name}: {lines}" for name, lines in lengths.items() if lines > LONGEST_FILE]


def length_of_main(file: Path) -> int:
    """Return the lines of the function ``main``."""
    (main,) = (
        node
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    return main.end_lineno - main.lineno + 1


def test_nothing_imports_upwards():
    assert upward_imports(REPOSITORY) == []


def test_there_is_no_circle():
    assert circles(REPOSITORY) == []


def test_files_are_short():
    assert long_files(REPOSITORY) == []


@pytest.mark.parametrize("name", TRAINERS)
def test_main_of_a_trainer_is_short(name):
    assert length_of_main(REPOSITORY / name) <= LONGEST_MAIN


# ----------------------------------------------------------- the checks themselves, on a small tree


@pytest.fixture
def house(tmp_path):
    """A house in order, with every form of a legal import."""
    files = {
        "step.py": "import data.coco\nfrom net import network\nfrom tool.files import write\n",
        "data/__init__.py": "",
        "data/base.py": "import os\nfrom tool import files\n",
        "data/coco/__init__.py": "from data.coco.masks import draw\n",
        "data/coco/masks.py": "from ..base import A\n\n\ndef draw():\n    import net.network\n",
        "net/network.py": "import torch\nimport tool.files as files\n",
        "tool/files.py": "import json\n",
        "tests/test_step.py": "import step\n",
        "benchmarks/plain.py": "import step\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_house_in_order_passes(house):
    assert graph_of(house)["data.coco.masks"] == {"data.base", "net.network"}
    assert graph_of(house)["step"] == {"data.coco", "net.network", "tool.files"}
    assert (upward_imports(house), circles(house), long_files(house)) == ([], [], [])


@pytest.mark.parametrize(
    ("file", "line", "target"),
    [
        ("tool/files.py", "import net.network", "net.network"),
        ("tool/files.py", "from data import base", "data.base"),
        ("tool/files.py", "def f():\n    from data.base import Dataset", "data.base"),
        ("tool/files.py", "from importlib import import_module as f", None),
        ("tool/files.py", "importlib.import_module('data.base')", "data.base"),
        ("net/network.py", "from data.coco.masks import draw", "data.coco.masks"),
        ("net/network.py", "from ..data import base", "data.base"),
        ("data/base.py", "import step", "step"),
        ("data/base.py", "from tests.test_step import x", "tests"),
        ("step.py", "import benchmarks.plain", "benchmarks"),
        ("other_step.py", "from step import main", "step"),
    ],
)
def test_a_planted_upward_import_is_found(file, line, target, house):
    with open(house / file, "a") as text:
        text.write(f"{line}\n")
    module = file.removesuffix(".py").replace("/", ".")
    assert upward_imports(house) == ([f"{module} imports {target}"] if target else [])


def test_a_planted_circle_is_found(house):
    (house / "tool/maps.py").write_text("def read():\n    from tool import pictures\n")
    (house / "tool/pictures.py").write_text("from . import errors\nimport tool.files\n")
    (house / "tool/errors.py").write_text("from tool.maps import read\n")
    assert upward_imports(house) == []
    assert circles(house) == ["tool.errors > tool.maps > tool.pictures > tool.errors"]


def test_a_long_file_and_a_long_main_are_found(house):
    (house / "net/long.py").write_text("x = 1\n" * (LONGEST_FILE + 1))
    (house / "net/full.py").write_text("x = 1\n" * LONGEST_FILE)
    assert long_files(house) == [f"net/long.py: {LONGEST_FILE + 1}"]
    (house / "step.py").write_text(
        "def other():\n    pass\n\n\ndef main():\n    x = 1\n\n    return x\n"
    )
    assert length_of_main(house / "step.py") == 4
