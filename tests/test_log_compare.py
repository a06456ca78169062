"""Curves of a training, of the released code's logs and of our record; their comparison."""

import math

import numpy as np
import pytest

from log import compare
from log.charts import draw, smooth
from log.curves import FOLDER, OWN, RECORDED, Curves, read_curves, read_recorded
from tests.tiny import log_of
from tool.errors import InputError

LINE = "step:{:5}/{:5} lossCLS:{:.4f} lossGSC:0.0160 imps:36.6 lr: 0.1000 etc:Tue May 24 2022\n"
NAMES = ("loss_cls", "loss_gsc", "learning_rate")
HEAD = "step,total,loss_cls,learning_rate,miou\n"


def written(path, text: str):
    path.write_text(text)
    return path


def test_a_run_that_was_started_again_replaces_what_came_after(tmp_path):
    rows = ["0,50,0.9,1,", "10,50,0.9,1,", "20,50,0.9,1,0.1", "30,50,0.9,1,0.2", "20,50,0.5,1,"]
    rows += ["40,50,0.5,1,", "50,5"]  # half a row
    table = written(tmp_path / "curves.csv", HEAD + "\n".join(rows))
    lines = [LINE.format(step, 50, 0.9) for step in (0, 10, 20, 30)]
    lines += [LINE.format(20, 50, 0.5), LINE.format(40, 50, 0.5)]
    for path in (table, written(tmp_path / "x.txt", "".join(lines))):
        assert read_curves(path).of("loss_cls") == {0: 0.9, 10: 0.9, 20: 0.5, 40: 0.5}


def test_logs_of_the_released_code(tmp_path):
    text = "2022-05-24 14:00:00,123 INFO " + LINE.format(510, 3305, 0.0994)
    text += "step:  520/ 3305 lossC:nan lossL1: 1e-3 imps: inf lr:0.04\n"
    text += "step: 99999999999999999999/ 3305 lossC:1 lossL1:1 imps:1 lr:1\n"  # beyond sense
    text += "step: 999999999/ 3305 lossC:1 lossL1:1 imps:1 lr:1\n"
    text += "step:" + " " * 100_000 + "1\n" + "step:" + "1" * 100_000 + "\n"  # no end to match
    text += "{'iou': array([0.1]), 'miou': np.float64(0.52)}\n"
    curves = read_curves(written(tmp_path / "exp.log", text))
    assert curves.of("loss_cls")[510] == 0.0994
    assert math.isnan(curves.of("loss_cls")[520])
    assert curves.of("loss_gsc") == {510: 0.016, 520: 0.001}
    assert curves.of("learning_rate") == {510: 0.1, 520: 0.04}
    assert (curves.total_steps, curves.of("miou")) == (3305, {500: 0.52})


# ------------------------------------------------------------------------------- comparison


def test_losses_are_means_over_the_steps_since_the_row_above(tmp_path):
    losses = {0: 8.0, 10: 1.0, 20: 3.0, 500: 5.0, 510: 7.0}
    rows = "".join(f"{step},3305,{loss},1,\n" for step, loss in losses.items())
    ours = read_curves(written(tmp_path / "curves.csv", HEAD + rows))
    found = compare.table([ours, read_recorded("voc_repository_run")], NAMES[:2], 500)
    assert [row[:2] for row in found] == [(0, 8), (500, 3), (510, 7)]
    assert [row[3] for row in found] == [None] * 3


def test_running_mean_shrinks_at_the_ends():
    values = smooth([float(step) for step in range(20)])
    assert values[0] == 2.5  # 0..5
    assert values[10] == pytest.approx(10)


def test_a_curve_of_few_rows_is_drawn_as_it_is():
    for number, drawn in ((6, 1), (60, 2)):
        rows = {step: {"loss_cls": 1 / (step + 1)} for step in range(number)}
        run = Curves(number, rows)
        lines = draw({"ours": run}, ["loss_cls"]).axes[0].lines
        assert len(lines) == drawn
        assert list(lines[0].get_ydata()) == list(run.of("loss_cls").values())


def test_notes_on_what_cannot_be_compared(tmp_path, capsys):
    text = LINE.format(0, 100, 0.1) + LINE.format(10, 100, math.nan)
    compare.main([str(written(tmp_path / "exp.log", text)), "--classes"])
    out = capsys.readouterr().out
    assert " nan " in out
    assert "set to 100 steps" in out
    assert "no step at which both runs report the IoU" in out


WITH_VALIDATION = [name for name in RECORDED if "coco" not in name and "best" not in name]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_tables_are_complete(name):
    curves, own = read_recorded(name), name in OWN
    steps = {"voc_h": 970, "voc_b": 944, "voc_r": 3305, "voc_c": 3305}
    assert curves.total_steps == steps.get(name[:5], 25650)
    assert list(curves.of("loss_cls")) == list(range(0, curves.total_steps, 10))
    start = curves.of("learning_rate")[0]
    for step, rate in curves.of("learning_rate").items() if not own else ():
        assert rate == pytest.approx(start * (1 - step / curves.total_steps) ** 0.9, abs=5.1e-5)
    assert bool(curves.of("miou")) == (name in WITH_VALIDATION)
    for step, miou in curves.of("miou").items():
        iou = [curves.rows[step][column] for column in curves.names("iou ")]
        assert len(iou) == 21
        assert np.nanmean(iou) == pytest.approx(miou, abs=1e-4 if own else 1e-8)


@pytest.mark.parametrize("name", WITH_VALIDATION)
def test_what_a_trainer_notes_is_read_and_saved_as_it_was(name, tmp_path, capsys):
    curves = read_recorded(name)
    (path,) = FOLDER.glob(f"*_{name}.csv")
    table = written(tmp_path / "curves.csv", path.read_text())
    for path in (table, tmp_path):
        found = read_curves(path)
        assert found.total_steps == curves.total_steps
        for column in (*NAMES, "miou", "iou cat"):
            assert found.of(column) == pytest.approx(curves.of(column), nan_ok=True)
    mine = tmp_path / "mine.csv"
    compare.main([str(table), "--save", str(mine), "--against", name, "--classes"])
    assert mine.read_text().splitlines() == table.read_text().splitlines()
    text, _, classes = capsys.readouterr().out.rpartition("The curves")[2].partition("\n\n")
    rows = [line.split()[1:] for line in text.splitlines()[4:]]
    assert len(rows) in (8, 9)  # 0, 500, .. 3000, 3300; 0, 120, .. 960
    assert [row[0::2] for row in rows] == [row[1::2] for row in rows]
    assert "IoU (%) at step" in classes
    for line in classes.splitlines()[2:]:
        assert line.split()[-1] == line.split()[-2]


@pytest.mark.parametrize("text", ["", f"{HEAD}-1,10,1,1,\n", f"{HEAD}1,10,x,1,\n", "\0"])
def test_a_file_that_holds_no_curves(text, tmp_path):
    for name in ("curves.csv", "x.txt"):
        with pytest.raises(InputError, match=name):
            read_curves(written(tmp_path / name, text))
        (tmp_path / name).unlink()


def test_a_picture_of_the_curves_beside_the_recorded_run(tmp_path, capsys):
    log = written(tmp_path / "x.log", log_of(read_recorded("voc_half_seed16")))
    for name in ("curves.svg", "curves.png"):
        compare.main([str(log), "--out", str(tmp_path / name)])
        assert (tmp_path / name).stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "x.log and voc_half_seed15" in out
    assert "published" not in out
    for flags, named in (
        (["--out", str(tmp_path / "curves.xyz")], "curves.xyz"),
        (["--check", "--against", "voc_half_seed15"], "voc_half_seed15"),  # no published one
    ):
        with pytest.raises(SystemExit):
            compare.main([str(log), *flags])
        assert named in capsys.readouterr().err
