"""Curves of a training, of the released code's logs and of our record; their comparison."""

import json
import math

import pytest

from log import compare
from log.charts import smooth
from log.curves import FOLDER, OWN, PUBLISHED, RECORDED, read_curves, read_recorded
from tests.tiny import log_of, table_of
from tool.errors import InputError

LINE = "step:{:5}/{:5} lossCLS:{:.4f} lossGSC:0.0160 imps:36.6 lr: 0.1000 etc:Tue May 24 2022\n"


def written(path, text: str):
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_tables_are_complete(name):
    curves = read_recorded(name)
    own = name in OWN
    assert list(curves.of("loss_cls")) == list(range(0, curves.total_steps, 10))
    if own:
        assert list(curves.of("miou")) == [240, 480, 720, 960]
    else:
        iterations = json.loads((FOLDER / "published_results.json").read_text())["iterations"]
        assert curves.total_steps == iterations[name.split("_")[0]]
    start = curves.of("learning_rate")[0]
    for step, rate in curves.of("learning_rate").items() if not own else ():
        assert rate == pytest.approx(start * (1 - step / curves.total_steps) ** 0.9, abs=5.1e-5)
    for step, miou in curves.of("miou").items():
        occurring = [iou for iou in curves.iou[step].values() if not math.isnan(iou)]
        assert len(curves.iou[step]) == 21
        assert sum(occurring) / len(occurring) == pytest.approx(miou, abs=1e-4 if own else 1e-8)


@pytest.mark.parametrize("name", RECORDED)
def test_what_a_trainer_notes_is_read_as_it_was(name, tmp_path):
    curves = read_recorded(name)
    table = written(tmp_path / "curves.csv", table_of(curves))
    (tmp_path / "exp.log").write_text("no curves\n")
    for path in (table, tmp_path, tmp_path / "exp.log"):
        found = read_curves(path)
        assert found.total_steps == curves.total_steps
        assert all(found.of(n) == curves.of(n) for n in ("loss_cls", "loss_gsc", "learning_rate"))
        for step, iou in found.iou.items():
            assert iou == pytest.approx(curves.iou[step], nan_ok=True)


def test_a_run_that_was_started_again_replaces_what_came_after(tmp_path):
    head = "step,total,loss_cls,learning_rate,miou\n"
    rows = ["0,50,0.9,1,", "10,50,0.9,1,", "20,50,0.9,1,0.1", "30,50,0.9,1,0.2", "20,50,0.5,1,"]
    rows += ["40,50,0.5,1,", "50,5"]  # half a row
    table = written(tmp_path / "curves.csv", head + "\n".join(rows))
    lines = [LINE.format(step, 50, 0.9) for step in (0, 10, 20, 30)]
    lines += ["{'miou': 0.1}\n", LINE.format(20, 50, 0.5), LINE.format(40, 50, 0.5)]
    for path in (table, written(tmp_path / "x.txt", "".join(lines))):
        curves = read_curves(path)
        assert curves.of("loss_cls") == {0: 0.9, 10: 0.9, 20: 0.5, 40: 0.5}
        assert list(curves.of("miou")) in ([20], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column step"),
        ("step,total,learning_rate\n0,10,0.1\n", "loss"),
        ("step,total,loss_cls,learning_rate\n-1,10,1,1\n", "'-1'"),
        (f"step,total,loss_cls,learning_rate\n{'9' * 5000},10,1,1\n", "999"),
        ("step,total,loss_cls,learning_rate\n1,10,x,1\n", "'x'"),
        ("\0", "zero"),
    ],
)
def test_a_table_that_is_none(text, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        read_curves(written(tmp_path / "curves.csv", text))
    assert "curves.csv" in str(error.value)


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


@pytest.mark.parametrize("content", [b"", b"hello\n", bytes(range(256)) * 10])
def test_a_file_that_is_no_log(content, tmp_path):
    (tmp_path / "exp.log").write_bytes(content)
    for path in (tmp_path / "exp.log", tmp_path / "none.log", tmp_path):
        with pytest.raises(InputError, match=path.name):
            read_curves(path)


# ------------------------------------------------------------------------------- comparison


def test_losses_are_means_over_the_steps_since_the_row_above():
    curve = {0: 8.0, 10: 1.0, 20: 3.0, 30: 5.0}
    assert compare.mean_between(curve, -1, 0) == 8
    assert compare.mean_between(curve, 0, 20) == 2
    assert compare.mean_between(curve, 30, 40) is None


def test_running_mean_shrinks_at_the_ends():
    steps, values = smooth({step: float(step) for step in range(20)})
    assert steps == list(range(20))
    assert values[0] == 2.5  # 0..5
    assert values[10] == 10
    assert smooth({}) == ([], [])


@pytest.mark.parametrize("name", RECORDED)
def test_a_run_against_itself_shows_equal_columns(tmp_path, capsys, name):
    table = written(tmp_path / "curves.csv", table_of(read_recorded(name)))
    compare.main([str(table), "--against", name, "--classes"])
    text, _, classes = capsys.readouterr().out.partition("\n\n")
    rows = [line.split() for line in text.splitlines()[3:]]
    assert len(rows) in (8, 9, 12)  # 0, 500, .. 3000, 3300; 0, 120, .. 960; 0, 2500, .. 25640
    for _, *cells in rows:
        assert cells[0::2] == cells[1::2]
    assert ("IoU (%) at step" in classes) == ("coco" not in name)
    for line in classes.splitlines()[2:] if "coco" not in name else ():
        assert line.split()[-1] == line.split()[-2]


def test_a_run_at_half_size_finds_the_recorded_one(tmp_path, capsys):
    compare.main([str(written(tmp_path / "x.log", log_of(read_recorded("voc_half_seed16"))))])
    out = capsys.readouterr().out
    assert "x.log and voc_half_seed15" in out
    assert "recorded" in out
    assert "published" not in out
    assert "Note" not in out


@pytest.mark.parametrize("name", ["voc_half_seed15", "coco_cvpr_run"])
def test_saved_tables_hold_the_curves(tmp_path, name):
    table = written(tmp_path / "curves.csv", table_of(read_recorded(name)))
    for _ in range(2):  # the second time over its own
        compare.main([str(table), "--save", str(tmp_path / "mine"), "--against", name])
    prefix = f"{RECORDED[name].origin}_{name}"
    kinds = ("training", "validation") if name in OWN else ("training",)
    for kind in kinds:
        ours = (tmp_path / f"mine_{kind}.csv").read_text().splitlines()
        theirs = (FOLDER / f"{prefix}_{kind}.csv").read_text().splitlines()
        assert len(ours) == len(theirs)
        if name in OWN:
            assert ours == theirs
    (tmp_path / "mine_training.csv").write_text("somebody else's")
    with pytest.raises(InputError, match=r"mine_training\.csv"):
        compare.main([str(table), "--save", str(tmp_path / "mine")])


def test_notes_on_what_cannot_be_compared(tmp_path, capsys):
    text = LINE.format(0, 100, 0.1) + LINE.format(10, 100, math.nan)
    compare.main([str(written(tmp_path / "exp.log", text)), "--classes"])
    out = capsys.readouterr().out
    assert "became NaN" in out
    assert "set to 100 steps" in out
    assert "no step at which both runs report the IoU" in out


@pytest.mark.parametrize("name", ["curves.svg", "curves.png"])
def test_a_picture_of_the_curves(name, tmp_path):
    table = written(tmp_path / "curves.csv", table_of(read_recorded(next(iter(PUBLISHED)))))
    compare.main([str(table), "--out", str(tmp_path / name)])
    assert (tmp_path / name).stat().st_size > 10_000
    with pytest.raises(InputError, match=r"curves\.xyz"):
        compare.main([str(table), "--out", str(tmp_path / "curves.xyz")])


def test_a_check_knows_published_runs_alone(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        compare.main([str(tmp_path), "--check", "--against", "voc_half_seed15"])
    assert end.value.code == 2
    assert "voc_half_seed15" in capsys.readouterr().err
