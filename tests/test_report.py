"""python -m tool.report: the page, the card, the summary; the tables that evaluations write."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cam2ir
import eval_cam
import eval_seg_labels
import make_seg_labels
from log import compare
from log.report import __main__ as program
from log.report import figures
from tests.tiny import KEYS
from tool.errors import InputError
from tool.maps import read_maps
from tool.metrics import ConfusionMatrix
from tool.pictures import heat, label_overlay, read_mask, with_legend

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def session(run, tmp_path) -> Path:
    """Maps, confident areas, CRF labels and their evaluations of the tiny folder."""
    eval_cam.main(run["eval_cam"] if "eval_cam" in run else run["eval_seg_labels"])
    cam2ir.main(run["cam2ir"])
    make_seg_labels.main([*run["make_seg_labels"], "--refine", "crf"])
    eval_seg_labels.main(run["eval_seg_labels"])
    return tmp_path / "run"


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_evaluations_write_a_table_of_pictures(session, tiny):
    rows = rows_of(session / "eval_cam.csv")
    assert list(rows) == list(KEYS)
    whole = ConfusionMatrix(4)
    for image_id, row in rows.items():
        maps = read_maps(session / "npy", image_id)
        one = ConfusionMatrix(4)
        truth = read_mask(tiny / f"masks/{image_id}.png")
        one.update(truth, maps["keys"][maps["IS_CAM"].argmax(0)])
        whole.add(one)
        for name, iou in zip(("background", "red", "green", "blue"), one.iou(), strict=True):
            assert row[name] == ("" if np.isnan(iou) else f"{iou:.4f}")
        assert float(row["miou"]) == pytest.approx(np.nanmean(one.iou()), abs=1e-4)
    result = json.loads((session / "eval_cam.json").read_text())
    counts = np.array([line.split() for line in result["confusion"]], int)
    assert np.array_equal(counts, whole.counts)
    assert rows_of(session / "eval_pseudo_label.csv").keys() == KEYS.keys()


def test_the_page_has_its_parts_and_fetches_nothing(session, capsys):
    program.main([str(session)])
    page = (session / "report.html").read_text()
    for heading in ("Figures", "Classes", "Training", "Mistakes", "Pictures", "Times", "Versions"):
        assert f"<h2>{heading}</h2>" in page
    for title in ("picture", "truth", "IS-CAM", "confident", "label"):
        assert page.count(f'<img alt="{title}"') == len(KEYS)
    assert not re.search(r"https?://|<link|<script|@import|url\(", page)
    assert all(
        url.startswith("data:image/jpeg;base64,") for url in re.findall(r'src="([^"]*)', page)
    )
    # What no step has made is said.
    assert "not measured" in page
    assert "no log of a training" in page
    assert "no run_*.sh has run" in page
    out = capsys.readouterr().out
    miou = json.loads((session / "eval_cam.json").read_text())["miou"]
    assert re.search(rf"IS-CAM +{100 * miou:.2f}", out)
    assert re.search(r"segmentation, deeplabv2 +missing", out)


def test_the_card(session):
    program.main([str(session)])
    card = (session / "README.md").read_text()
    assert "dataset: folder" in card
    assert "licence: not known" in card
    assert "python make_seg_labels.py" in card
    assert "--refine crf" in card


def test_curves_of_a_published_log_lie_over_the_published_ones(session):
    name = "voc_repository_run"
    curves = figures.compare.read_published(name)
    lines = [
        f"step:{s:5d}/ 3305 lossCLS:{curves.loss_cls[s]:.4f} lossGSC:{curves.loss_gsc[s]:.4f} "
        f"imps:36.6 lr: {curves.learning_rate[s]:.4f}"
        for s in curves.loss_cls
    ]
    (session / "run.log").write_text("\n".join(lines))
    settings = json.loads((session / "args.json").read_text())
    for values in settings.values():
        values["dataset"] = "voc"
    (session / "args.json").write_text(json.dumps(settings))
    found = figures.read_run(session)
    assert (found.beside, found.origin) == (name, "published")
    goals = {stage.name: stage.goal for stage in found.stages()}
    assert (goals["is_cam"], goals["cam"], goals["seg"]) == (58.88, 50.1, 68.8)
    assert goals["crf"] == 64.7
    page = program.page(found, [], {})
    assert page.count('class="ours"') >= 2
    assert page.count('class="theirs"') >= 3
    assert name in page


def test_a_run_at_half_size_lies_beside_the_recorded_one(tmp_path, capsys):
    lines = (f"step:{s:5d}/  970 lossCLS:0.1 lossGSC:0.02 imps:4 lr: 0.1" for s in (0, 10))
    (tmp_path / "run.log").write_text("\n".join(lines))
    settings = {"train_resnet50_SIPE": {"dataset": "voc"}}
    (tmp_path / "args.json").write_text(json.dumps(settings))
    recorded = figures.OWN["miou"]
    assert set(recorded) == {"cam", "cam_ipe", "is_cam", "crf", "irn", "seg"}
    assert {len(seeds) for seeds in recorded.values()} == {len(compare.OWN)}
    found = figures.read_run(tmp_path)
    goals = {stage.name: stage.goal for stage in found.stages()}
    assert goals["is_cam"] == pytest.approx(sum(recorded["is_cam"]) / len(recorded["is_cam"]))
    program.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "recorded" in out
    assert "published" not in out
    assert f"{goals['is_cam']:.4g}" in out
    assert '<th class="n">recorded</th>' in (tmp_path / "report.html").read_text()
    result = {"miou": 0.5, "iou": dict.fromkeys([*figures.OWN["seven"], "bus"], 0.5)}
    (tmp_path / "eval_cam.json").write_text(json.dumps(result))
    for classes, seeds in (
        (figures.OWN["seven"][::-1], figures.OWN["miou_seven"]["is_cam"]),
        (["cat", "bus"], None),
    ):
        found = figures.read_run(tmp_path, classes)
        goals = {stage.name: stage.goal for stage in found.stages()}
        assert goals["is_cam"] == (pytest.approx(sum(seeds) / len(seeds)) if seeds else None)


def test_means_over_some_classes(tmp_path, capsys):
    iou = {"background": 0.8, "cat": 0.6, "dog": 0.4, "bus": None}
    result = {"miou": 0.6, "iou": iou, "cam": {"miou": 0.3, "iou": dict.fromkeys(iou, 0.3)}}
    (tmp_path / "eval_cam.json").write_text(json.dumps(result))
    program.main([str(tmp_path), "--classes", "cat", "dog", "bus"])
    out = capsys.readouterr().out
    assert re.search(r"IS-CAM +50\.00", out)
    assert re.search(r"CAM, best threshold +30\.00", out)
    said = "means over cat, dog, bus."
    assert said in out
    assert said in (tmp_path / "report.html").read_text()
    assert said in (tmp_path / "README.md").read_text()
    program.main([str(tmp_path), str(tmp_path), "--classes", "cat", "dog", "bus"])
    assert said in capsys.readouterr().out
    program.main([str(tmp_path)])
    assert "means over" not in capsys.readouterr().out + (tmp_path / "report.html").read_text()
    with pytest.raises(InputError, match=r"eval_cam\.json.* no class 'cow'.*background, cat"):
        program.main([str(tmp_path), "--classes", "cow"])


def test_an_empty_session_says_what_is_missing(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    program.main([str(tmp_path / "empty")])
    assert capsys.readouterr().out.count("missing") >= 4
    assert "No evaluation has run." in (tmp_path / "empty/report.html").read_text()
    with pytest.raises(InputError, match="no session"):
        program.main([str(tmp_path / "nowhere")])
    (tmp_path / "empty/eval_cam.json").write_text("[")
    with pytest.raises(InputError, match=r"eval_cam\.json"):
        program.main([str(tmp_path / "empty")])


def test_seeds_give_mean_and_deviation(tmp_path, capsys):
    sessions = []
    for seed, (cam, is_cam) in enumerate([(0.5, 0.6), (0.52, 0.64), (0.54, 0.62)]):
        sessions.append(tmp_path / f"s_{seed}")
        (sessions[-1] / "cam_only").mkdir(parents=True)
        (sessions[-1] / "eval_cam.json").write_text(json.dumps({"miou": is_cam, "iou": {}}))
        plain = {"miou": 0.4, "iou": {}, "cam": {"miou": cam}}
        (sessions[-1] / "cam_only/eval_cam.json").write_text(json.dumps(plain))
    program.main([*map(str, sessions)])
    out = capsys.readouterr().out
    assert re.search(r"IS-CAM +62\.00 ± 2\.00 +n=3", out)
    assert re.search(r"CAM, best threshold +52\.00 ± 2\.00 +n=3", out)
    assert re.search(r"CAM \+ IPE.* +40\.00 ± 0\.00", out)
    found = json.loads((sessions[0] / "summary.json").read_text())["miou"]["is_cam"]
    assert found["values"] == pytest.approx([60, 64, 62])


def test_it_is_a_program(session):
    command = [sys.executable, "-m", "tool.report", str(session)]
    end = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (end.returncode, end.stderr) == (0, "")
    assert "report.html" in end.stdout


def test_heat_by_a_table_is_that_of_the_colours_between():
    values = np.random.default_rng(0).random((50, 60))
    from tool.pictures import HEAT_STOPS

    stops = np.linspace(0, 1, len(HEAT_STOPS))
    exact = np.stack([np.interp(values, stops, HEAT_STOPS[:, c]) for c in range(3)], -1)
    assert np.abs(heat(values).astype(float) - exact).max() <= 1.5


def test_a_legend_stands_below_the_drawing_and_changes_no_pixel_of_it():
    label = np.zeros((40, 90), np.uint8)
    label[5:20, 5:30], label[20:35, 40:80] = 1, 2
    drawing = label_overlay(np.full((40, 90, 3), 120, np.uint8), label)
    names = {1: "cat", 2: "a rather long name"}
    shown = with_legend(drawing, names)
    assert np.array_equal(shown[:40], drawing)
    assert shown.shape[1] == 90
    assert shown.shape[0] > 40 + 2 * 13  # two lines
    colours = {tuple(c) for c in shown[40:].reshape(-1, 3).tolist()}
    assert len(colours) > 3
    assert np.array_equal(with_legend(drawing, {}), drawing)
