"""The house: which floor imports which, no circles, and promises that one place alone keeps."""

import ast
from functools import cache
from graphlib import TopologicalSorter
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
IMPORTS = {"tool/cli.py"}  # import what a flag of the user names
PICKLES = {"tool/maps.py"}  # read a pickle, where --allow_pickle is given
LOADERS = {"data/loaders.py"}  # start processes, which end with their parent


@cache
def production() -> dict[str, ast.Module]:
    """Return the syntax tree of every production file, by its path in the project."""
    folders = [REPOSITORY / name for name in (*FLOORS, "log", "examples")]
    files = [*REPOSITORY.glob("*.py"), *(file for f in folders for file in f.rglob("*.py"))]
    return {f.relative_to(REPOSITORY).as_posix(): ast.parse(f.read_text()) for f in files}


def imports_of(tree: ast.Module) -> set[str]:
    """Return the absolute names that a module imports, wherever in the file the import stands.

    ``from a import b`` gives ``a.b``, which may be a module or a thing in the module ``a``.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level  # no relative import
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif imports_by_name(node) and isinstance(node.args[0], ast.Constant):
            found.add(node.args[0].value)
    return found


def graph_of() -> dict[str, set[str]]:
    """Return module -> what it imports of the project: modules, or folders that are free."""
    trees = {
        path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): tree
        for path, tree in production().items()
        if not path.startswith(FREE)
    }
    graph = {}
    for module, tree in trees.items():
        graph[module] = set()
        for target in imports_of(tree):
            parts = target.split(".")
            names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            name = next((known for known in names if known in trees), None)
            if name or parts[0] in FREE:
                graph[module].add(name or parts[0])
    return graph


def floor_of(module: str) -> int:
    top = module.split(".")[0]
    return STEPS + 1 if top in FREE else FLOORS.get(top, STEPS)


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


def makes_loaders(node: ast.AST) -> bool:
    """Tell whether a node starts processes, or a DataLoader that does."""
    names = ("DataLoader", "Process", "Pool", "ProcessPoolExecutor")
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names


def test_modules_import_from_lower_floors_without_a_circle():
    graph = {name: targets - {name} for name, targets in graph_of().items()}
    assert "data.coco.masks" in graph["data.coco.annotations"]
    for name, targets in graph.items():
        for target in targets:
            assert floor_of(target) <= floor_of(name), f"{name} imports {target}"
            assert not floor_of(target) == floor_of(name) == STEPS, f"{name} imports {target}"
    TopologicalSorter(graph).prepare()  # which raises a CycleError


@pytest.mark.parametrize(
    ("found", "places"),
    [
        (catches_all, BROAD),
        (imports_by_name, IMPORTS),
        (reads_pickles, PICKLES),
        (makes_loaders, LOADERS),
    ],
)
def test_a_promise_is_kept_in_its_place_alone(found, places):
    trees = production().items()
    assert {name for name, tree in trees if any(map(found, ast.walk(tree)))} == places
