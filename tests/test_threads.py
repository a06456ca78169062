"""How threads wait is decided before PyTorch is loaded, and a user's own choice stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = ("train_resnet50_SIPE", "train_irn", "train_seg", "make_cam", "cam2ir", "infer_seg")


def spin_count(code: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", f"{code}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"]
    env = {**clean, **environment}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_users_own_setting_stays():
    assert spin_count("import tool") == "10000"
    assert spin_count("import tool", GOMP_SPINCOUNT="7") == "7"
    assert spin_count("import tool", OMP_WAIT_POLICY="PASSIVE") == "None"


@pytest.mark.parametrize("program", [*PROGRAMS, "make_seg_labels"])
def test_programs_decide_before_pytorch_is_loaded(program):
    lines = (REPOSITORY / f"{program}.py").read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports[0].startswith("import tool ")
