"""Schedule, guard and pace of the trainers."""

import pytest
import torch

from tool import optimizer, pace, training
from tool.errors import InputError


def test_learning_rate_is_polynomial_in_updates_done():
    assert optimizer.learning_rate(0.1, 0, 3305) == 0.1
    assert optimizer.learning_rate(0.1, 510, 3305) == pytest.approx(0.1 * (2795 / 3305) ** 0.9)
    assert optimizer.learning_rate(0.1, 3305, 3305) == 0


def test_a_loss_that_is_not_finite_is_named_with_its_step():
    training.check_finite(torch.ones(3, 2), 7, str)
    for bad in (float("nan"), float("inf")):
        losses = torch.ones(3, 2)
        losses[1, 0] = bad
        with pytest.raises(InputError, match=r"at step 8, whose pictures are p8\."):
            training.check_finite(losses, 7, lambda step: [f"p{step}"])


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_an_update_that_is_not_finite_is_not_written(bad):
    """Also the last one, after which no loss is computed."""
    net = torch.nn.Linear(2, 3)
    training.check_weights(net, 7)
    net.bias.data[1] = bad
    with pytest.raises(
        InputError, match=r"weights bias became NaN or infinite in step 7\. The last"
    ):
        training.check_weights(net, 7)


def test_pace_counts_what_this_run_did(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(pace.time, "time", lambda: clock[0])
    monkeypatch.setattr(pace.time, "ctime", lambda seconds: seconds)
    going = pace.Pace(start=100, total=200, batch_size=4)  # continued at step 100
    clock[0] = 1020.0
    assert going.report(110) == (2.0, 1000 + 2 * 100)  # 40 pictures in 20 s; 100 steps of 2 s
    clock[0] = 1030.0
    assert going.report(120) == (4.0, 1000 + 1.5 * 100)
    assert going.elapsed() == "00:00:30"
