import json
import math

import pytest

from log import compare
from log.compare import BESIDE, FOLDER, OWN, RUNS, parse_log, read_published


def training_line(step, loss_cls=0.1, loss_gsc=0.016, lr=0.1, total=3305):
    return (
        f"step:{step:5}/{total:5} lossCLS:{loss_cls:.4f} lossGSC:{loss_gsc:.4f} "
        f"imps:36.6 lr: {lr:.4f} etc:Tue May 24 14:05:10 2022\n"
    )


def write_log(tmp_path, lines):
    path = tmp_path / "exp.log"
    path.write_text("".join(lines))
    return path


def as_log(name):
    """A published run written as our trainer would log it."""
    curves = read_published(name)
    for step in curves.loss_cls:
        yield training_line(
            step,
            curves.loss_cls[step],
            curves.loss_gsc[step],
            curves.learning_rate[step],
            curves.total_steps,
        )
        if step in curves.miou:
            yield from (f"  iou {label}: {iou:.4f}\n" for label, iou in curves.iou[step].items())
            yield f"validation step:{step:5} miou: {curves.miou[step]:.4f}\n"


def test_training_line_behind_a_time_stamp():
    curves = parse_log(
        ["2022-05-24 14:00:00,123 INFO " + training_line(510, 0.0994, 0.0159, 0.043)]
    )
    assert curves.loss_cls == {510: 0.0994}
    assert curves.loss_gsc == {510: 0.0159}
    assert curves.learning_rate == {510: 0.043}
    assert curves.total_steps == 3305
    assert not curves.miou


def test_validation_takes_the_classes_before_it():
    curves = parse_log(
        [
            training_line(500),
            "  iou cat: 0.6442\n",
            "  iou traffic light: nan\n",
            "validation step:  500 miou: 0.5248\n",
            "validation step: 1000 miou: 0.6\n",
        ]
    )
    assert curves.miou == {500: 0.5248, 1000: 0.6}
    assert curves.iou[500]["cat"] == 0.6442
    assert math.isnan(curves.iou[500]["traffic light"])
    assert curves.iou[1000] == {}


def test_resumed_run_replaces_the_lines_after_its_checkpoint():
    lines = [training_line(step, 0.9) for step in (0, 10, 20, 30)]
    lines += ["validation step:   30 miou: 0.1\n", training_line(20, 0.5), training_line(40, 0.5)]
    curves = parse_log(lines)
    assert curves.loss_cls == {0: 0.9, 10: 0.9, 20: 0.5, 40: 0.5}
    assert curves.miou == {}


def test_nan_loss_is_read_not_skipped(tmp_path, capsys):
    path = write_log(tmp_path, [training_line(0), training_line(10, math.nan)])
    compare.main([str(path)])
    assert "became NaN" in capsys.readouterr().out


def test_losses_are_means_over_the_steps_since_the_row_above():
    curve = {0: 8.0, 10: 1.0, 20: 3.0, 30: 5.0}
    assert compare.mean_between(curve, -1, 0) == 8
    assert compare.mean_between(curve, 0, 20) == 2
    assert compare.mean_between(curve, 30, 40) is None


def test_running_mean_shrinks_at_the_ends():
    steps, values = compare.smooth({step: float(step) for step in range(20)})
    assert steps == list(range(20))
    assert values[0] == 2.5  # 0..5
    assert values[10] == 10
    assert compare.smooth({}) == ([], [])


@pytest.mark.parametrize("name", RUNS)
def test_published_tables_are_complete(name):
    curves = read_published(name)
    steps = list(curves.loss_cls)
    assert steps == list(range(0, RUNS[name].total_steps, 10))
    start = curves.learning_rate[0]
    for step, rate in curves.learning_rate.items():
        assert rate == pytest.approx(start * (1 - step / curves.total_steps) ** 0.9, abs=5.1e-5)
    for step, miou in curves.miou.items():
        assert sum(curves.iou[step].values()) / 21 == pytest.approx(miou, abs=1e-8)
    iterations = json.loads((FOLDER / "published_results.json").read_text())["iterations"]
    assert curves.total_steps == iterations[name.split("_")[0]]


@pytest.mark.parametrize("name", OWN)
def test_tables_of_our_own_are_complete(name):
    curves = read_published(name)
    assert list(curves.loss_cls) == list(range(0, curves.total_steps, 10))
    assert list(curves.miou) == [240, 480, 720, 960]
    for step, miou in curves.miou.items():
        occurring = [iou for iou in curves.iou[step].values() if not math.isnan(iou)]
        assert len(curves.iou[step]) == 21
        assert sum(occurring) / len(occurring) == pytest.approx(miou, abs=1e-4)


@pytest.mark.parametrize("name", BESIDE)
def test_a_run_against_itself_shows_equal_columns(tmp_path, capsys, name):
    compare.main([str(write_log(tmp_path, as_log(name))), "--against", name])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert len(rows) in (8, 9, 12)  # 0, 500, .. 3000, 3300; 0, 120, .. 960; 0, 2500, .. 25640
    for _, *cells in rows:
        assert cells[0::2] == cells[1::2]


def test_a_run_at_half_size_finds_the_recorded_one(tmp_path, capsys):
    compare.main([str(write_log(tmp_path, as_log("voc_half_seed16")))])
    out = capsys.readouterr().out
    assert "exp.log and voc_half_seed15" in out
    assert "recorded" in out
    assert "published" not in out
    assert "Note" not in out


@pytest.mark.parametrize("name", ["voc_half_seed15", "voc_repository_run", "coco_cvpr_run"])
def test_saved_tables_hold_the_curves(tmp_path, capsys, monkeypatch, name):
    log = write_log(tmp_path, as_log(name))
    compare.main([str(log), "--save", str(tmp_path / f"{BESIDE[name].origin}_{name}")])
    said = capsys.readouterr().out.splitlines()[0]
    assert f"{name}_training.csv" in said
    read = compare.read_log(log)
    assert ("validation.csv" in said) == bool(read.miou)
    monkeypatch.setattr(compare, "FOLDER", tmp_path)
    saved = read_published(name)
    saved.iou, read.iou = repr(saved.iou), repr(read.iou)  # NaN equals nothing
    assert saved == read


def test_tables_that_cannot_be_written(tmp_path, capsys):
    path = write_log(tmp_path, [training_line(0)])
    assert "training.csv" in fails(capsys, path, "--save", tmp_path / "none" / "exp")
    assert [p.name for p in tmp_path.iterdir()] == ["exp.log"]


def test_check_is_for_published_runs(tmp_path, capsys):
    path = write_log(tmp_path, as_log("voc_half_seed15"))
    message = fails(capsys, path, "--check", "--against", "voc_half_seed15")
    assert "--check knows published runs" in message


def test_run_in_progress_stops_at_its_last_step(tmp_path, capsys):
    lines = [training_line(step) for step in range(0, 730, 10)]
    compare.main([str(write_log(tmp_path, lines))])
    rows = capsys.readouterr().out.splitlines()[3:]
    assert [row.split()[0] for row in rows] == ["0", "500", "720"]


def test_other_length_is_pointed_out(tmp_path, capsys):
    compare.main([str(write_log(tmp_path, [training_line(0, total=100)]))])
    assert "set to 100 steps" in capsys.readouterr().out


def test_classes_at_the_last_shared_validation(tmp_path, capsys):
    path = write_log(tmp_path, as_log("voc_cvpr_run"))
    compare.main([str(path), "--classes"])
    out = capsys.readouterr().out
    assert "IoU (%) at step 3000" in out
    assert out.splitlines()[-1].split() == ["tvmonitor", "40.54", "42.59"]
    compare.main([str(path), "--classes", "--against", "coco_cvpr_run"])
    assert "no step at which both" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["voc_repository_run", "coco_cvpr_run"])
def test_picture(tmp_path, name):
    pytest.importorskip("matplotlib")
    path = write_log(tmp_path, [training_line(step) for step in range(0, 100, 10)])
    out = tmp_path / "curves.png"
    compare.main([str(path), "--against", name, "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "exp.log"]


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as error:
        compare.main([str(arg) for arg in argv])
    assert error.value.code == 2
    return capsys.readouterr().err


def test_file_without_training_lines(tmp_path, capsys):
    path = write_log(tmp_path, ["hello\n", "validation step:  500 miou: 0.5\n"])
    message = fails(capsys, path)
    assert "exp.log holds no training line" in message
    assert compare.SAMPLE in message


def test_binary_file(tmp_path, capsys):
    path = tmp_path / "final.pth"
    path.write_bytes(bytes(range(256)) * 10)
    assert "holds no training line" in fails(capsys, path)


def test_missing_file_and_folder(tmp_path, capsys):
    assert "No such file" in fails(capsys, tmp_path / "exp.log")
    assert "<session>/<session>.log" in fails(capsys, tmp_path)


def test_picture_that_cannot_be_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = write_log(tmp_path, [training_line(0)])
    assert "curves.xyz" in fails(capsys, path, "--out", tmp_path / "curves.xyz")
    assert "none" in fails(capsys, path, "--out", tmp_path / "none" / "curves.png")
    assert [p.name for p in tmp_path.iterdir()] == ["exp.log"]
