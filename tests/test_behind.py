"""tool/behind.py: calls in threads, at most some behind, and no failure is lost."""

import threading

import pytest

from tool.behind import Behind


def test_everything_is_called_and_at_most_some_wait():
    gate, done = threading.Event(), []

    def work(number: int) -> None:
        gate.wait(5)
        done.append(number)

    with Behind(most=3) as behind:
        for number in range(3):
            behind.call(work, number)
        assert done == []  # nobody has waited so far
        gate.set()
        for number in range(3, 10):
            behind.call(work, number)
    assert sorted(done) == list(range(10))


@pytest.mark.parametrize("later", [0, 5])
def test_a_failure_reaches_the_caller(later):
    done = []

    def fail() -> None:
        raise OSError("full")

    def work() -> None:
        with Behind(most=1) as behind:
            behind.call(fail)
            for number in range(later):
                behind.call(done.append, number)

    with pytest.raises(OSError, match="full"):
        work()


def test_a_failure_of_the_caller_is_not_hidden():
    def work() -> None:
        with Behind() as behind:
            behind.call(lambda: {}["x"])
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        work()
