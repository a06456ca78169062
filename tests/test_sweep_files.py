"""A short sweep of damaged files; ``python -m tests.sweep --files 3000`` is the long one."""

import signal

import pytest

from tests import sweep_files
from tool.errors import InputError


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_or_give_sane_numbers(tmp_path):
    before = signal.getsignal(signal.SIGALRM)
    counts = sweep_files.sweep(tmp_path, 20, seed=7)
    signal.signal(signal.SIGALRM, before)
    ways, ends = zip(*(key.split(": ") for key in counts), strict=True)
    assert set(ends) == set(sweep_files.WELL)
    assert len(set(ways)) == 7


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (InputError("a.pth is wrong"), "refused"),
        (InputError("something is wrong"), "a message that does not name the file"),
        (ValueError(), "ValueError"),
        (SystemExit(), "SystemExit"),
        (sweep_files.Late(), "Late"),
    ],
)
def test_outcomes_are_told_apart(tmp_path, error, what):
    def read(_):
        raise error

    assert sweep_files.outcome(tmp_path / "a.pth", read).startswith(what)
