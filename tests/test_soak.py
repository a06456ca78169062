"""A short soak; ``python -m tests.soak`` is the long one."""

import numpy as np
import torch

from tests import soak
from tool.pictures import save_label


def test_steps_that_are_killed_come_out_the_same(tmp_path):
    hit, wrong = soak.soak(tmp_path, 3, seed=2)
    assert wrong == []
    assert hit.total() >= 2  # one may have been quicker than its kill


def test_what_differs_is_found(tmp_path):
    for name, value in (("one", 0), ("other", 1)):
        session = tmp_path / name
        save_label(session / "labels/a.png", np.full((2, 3), value, np.uint8))
        save_label(session / "labels/b.png", np.zeros((2, 3), np.uint8))
        torch.save({"net": {"w": torch.ones(2) * value}}, session / "x.pth")
        np.savez(session / "m.npz", a=np.ones(3) * value)
        (session / "eval.json").write_text(f"[{value}]".join(('{"miou": ', "}")))
    assert soak.differences(tmp_path / "one", tmp_path / "one") == []
    found = soak.differences(tmp_path / "one", tmp_path / "other")
    assert found == ["eval.json", "labels/a.png", "m.npz", "x.pth"]
    (tmp_path / "one/x.pth").unlink()
    assert "x.pth" in soak.differences(tmp_path / "one", tmp_path / "other")
    (tmp_path / "one/.x.pth.77.tmp").touch()
    assert soak.unfinished(tmp_path / "one") == [".x.pth.77.tmp"]
