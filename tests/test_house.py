"""The house: which floor imports which, no circles, and promises that one place alone keeps."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
# A module imports from its own floor and from lower ones; the step programs are the highest.
FLOORS = {"tool": 0, "net": 1, "data": 2}
STEPS = 3
# Folders that may import anything, and that no floor imports.
FREE = ("tests", "benchmarks", "examples", "log")
# Where a promise is kept: what else would keep it, and the files that may.
BROAD = {"tool/reader.py", "tool/run.py"}  # catch whatever broken bytes raise; end a program
# What imports by name: a flag of the user, or a fixed table of this project's programs.
IMPORTS = {"tool/cli.py", "data/datasets.py", "log/report/commands.py"}
PICKLES = {"tool/maps.py"}  # read a pickle, where --allow_pickle is given


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


def production(root: Path) -> dict[str, ast.Module]:
    """Return the syntax tree of every production file, by its path in the project."""
    free = [*(root / "log").rglob("*.py"), *(root / "examples").rglob("*.py")]
    files = [*modules_of(root).values(), *free]
    return {file.relative_to(root).as_posix(): ast.parse(file.read_text()) for file in files}


def catches_all(node: ast.AST) -> bool:
    """Tell whether a node is an ``except`` of whatever is raised."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    return node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")


def imports_by_name(node: ast.AST) -> bool:
    """Tell whether a node imports a module whose name is a value."""
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")


def reads_pickles(node: ast.AST) -> bool:
    """Tell whether a node is a call that may execute a file."""
    if not isinstance(node, ast.Call):
        return False
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    return given.get("allow_pickle", "False") != "False" or given.get("weights_only") == "False"


def files_with(root: Path, found: Callable[[ast.AST], bool]) -> set[str]:
    """Return the production files with a node of some kind."""
    trees = production(root).items()
    return {name for name, tree in trees if any(map(found, ast.walk(tree)))}


def test_nothing_imports_upwards():
    assert upward_imports(REPOSITORY) == []


def test_there_is_no_circle():
    assert circles(REPOSITORY) == []


@pytest.mark.parametrize(
    ("found", "places"),
    [(catches_all, BROAD), (imports_by_name, IMPORTS), (reads_pickles, PICKLES)],
)
def test_a_promise_is_kept_in_its_place_alone(found, places):
    assert files_with(REPOSITORY, found) <= places


# ----------------------------------------------------------- the checks themselves, on a small tree


@pytest.fixture
def house(tmp_path):
    """A house in order, with every form of a legal import."""
    files = {
        "step.py": "import data.coco\nfrom net import network\nfrom tool.writer import write\n",
        "data/__init__.py": "",
        "data/base.py": "import os\nfrom tool import writer\n",
        "data/coco/__init__.py": "from data.coco.masks import draw\n",
        "data/coco/masks.py": "from ..base import A\n\n\ndef draw():\n    import net.network\n",
        "net/network.py": "import torch\nimport tool.writer as writer\n",
        "tool/writer.py": "import json\n",
        "tests/test_step.py": "import step\n",
        "benchmarks/plain.py": "import step\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_house_in_order_passes(house):
    assert graph_of(house)["data.coco.masks"] == {"data.base", "net.network"}
    assert graph_of(house)["step"] == {"data.coco", "net.network", "tool.writer"}
    assert (upward_imports(house), circles(house)) == ([], [])


@pytest.mark.parametrize(
    ("file", "line", "target"),
    [
        ("tool/writer.py", "import net.network", "net.network"),
        ("tool/writer.py", "from data import base", "data.base"),
        ("tool/writer.py", "def f():\n    from data.base import Dataset", "data.base"),
        ("tool/writer.py", "from importlib import import_module as f", None),
        ("tool/writer.py", "importlib.import_module('data.base')", "data.base"),
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
    (house / "tool/pictures.py").write_text("from . import errors\nimport tool.writer\n")
    (house / "tool/errors.py").write_text("from tool.maps import read\n")
    assert upward_imports(house) == []
    assert circles(house) == ["tool.errors > tool.maps > tool.pictures > tool.errors"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("try:\n    f()\nexcept Exception:\n    pass", catches_all),
        ("try:\n    f()\nexcept:\n    pass", catches_all),
        ("importlib.import_module(name)", imports_by_name),
        ("np.load(path, allow_pickle=trusted)", reads_pickles),
        ("torch.load(path, weights_only=False)", reads_pickles),
    ],
)
def test_a_second_place_for_a_promise_is_found(line, found, house):
    assert files_with(house, found) == set()
    (house / "net/second.py").write_text(f"{line}\n")
    assert files_with(house, found) == {"net/second.py"}
