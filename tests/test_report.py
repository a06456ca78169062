"""python -m tool.report: the page, the card with its commands, the summary, means over seeds."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cam2ir
import eval_cam
import eval_seg_labels
import make_seg_labels
from data.folder import Folder
from log import figures
from log.curves import FOLDER, OWN, read_recorded
from log.report import __main__ as program
from log.report import gallery
from tests.tiny import CLASSES, KEYS, result_of, result_with, store_maps, table_of
from tool.errors import InputError


@pytest.fixture
def session(run, tmp_path) -> Path:
    """Maps, confident areas, labels of two CRFs and a segmentation, with their evaluations."""
    session = tmp_path / "run"
    crf = [*run["make_seg_labels"], "--refine", "crf"]
    eval_cam.main(run["eval_seg_labels"])
    cam2ir.main(run["cam2ir"])
    make_seg_labels.main([*crf, "--gt_prob", "0.6"])
    make_seg_labels.main([*crf, "--sem_seg_out_dir", str(session / "crf_label")])
    segmented = session / "seg_deeplabv2_resnet101"
    shutil.copytree(session / "pseudo_label", segmented)
    write(segmented / "settings.json", {"program": "infer_seg", "model": "deeplabv2_resnet101"})
    for folder in ("pseudo_label", "crf_label", "seg_deeplabv2_resnet101"):
        eval_seg_labels.main([*run["eval_seg_labels"], "--label_dir", str(session / folder)])
    return session


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def report(session: Path, *flags: str) -> tuple[str, str]:
    """Return page and card of a session."""
    program.main([str(session), *flags])
    return (session / "report.html").read_text(), (session / "README.md").read_text()


def test_the_page_has_its_parts_and_fetches_nothing(session, capsys):
    write(session / "curves.csv", table_of(read_recorded("voc_cvpr_run")))
    write(session / "seconds.txt", "train 5\nmake_cam 3661\n")
    page, _ = report(session)
    for heading in ("Figures", "Classes", "Training", "Mistakes", "Pictures", "Times", "Versions"):
        assert f"<h2>{heading}</h2>" in page
    for title in ("picture", "truth", "confident", "label", "DeepLab v2"):
        assert page.count(f'<img alt="{title}"') == len(KEYS)
    for name in ("red", "green", "blue"):
        shown = sum(CLASSES.index(name) in keys for keys in KEYS.values())
        assert page.count(f'<img alt="IS-CAM: {name}"') == shown
    for title in ("IS-CAM", "labels by the CRF in pseudo_label", "segmentation, deeplabv2"):
        assert f"<th>{title}</th>" in page  # of a column of the classes
    assert page.count("<svg") == 3
    assert "<td>1:01:01</td>" in page
    links = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?://|<link|<script|@import|url\((?!#)", links)
    assert set(re.findall(r'src="(.{22})', page)) == {"data:image/jpeg;base64"}
    miou = json.loads((session / "eval_cam.json").read_text())["miou"]
    assert re.search(rf"IS-CAM +{100 * miou:.2f}", capsys.readouterr().out)


def test_figures_in_a_file_and_pictures_in_another(session):
    report(session)
    found = json.loads((session / "results.json").read_text())["miou"]
    names = {"is_cam": "cam", "crf in crf_label": "crf_label", "seg": "seg_deeplabv2_resnet101"}
    for kind, name in names.items():
        assert found[kind] == json.loads((session / f"eval_{name}.json").read_text())["miou"]
    with Image.open(session / "report.png") as image:
        assert min(image.size) > 400


def test_the_figure_shows_pictures_that_are_drawn_alike():
    pictures = []
    for number in range(8):
        titles = "a" if number in (2, 5) else "ab"  # as those that only step 3 has seen
        drawn = {t: np.full((4, 6, 3), 20 * number + k, np.uint8) for k, t in enumerate(titles)}
        drawn |= {f"c: {number}": drawn["a"], "c: other": drawn["a"]}  # maps of two classes
        pictures.append(gallery.Shown(str(number), "best", drawn))
    panels = gallery.figure(pictures).axes
    assert [axes.get_title() for axes in panels[:3]] == ["a", "b", "c"]
    assert [axes.get_ylabel() for axes in panels[::3]] == ["0", "3", "6"]
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in panels]
    assert shown == [0, 1, 0, 60, 61, 60, 120, 121, 120]


def shown_in(page: str) -> dict[str, str]:
    """Return the captions of the gallery by id."""
    return dict(re.findall(r"<figcaption><b>(\w+)</b> (.*)</figcaption>", page))


@pytest.mark.parametrize("folder", ["npy", "pseudo_label"])
def test_without_masks_pictures_and_what_they_cover_are_shown(folder, run, tiny, tmp_path, capsys):
    """Picture c shows no class, and that it is 0 to 1 covered decides the order of the others."""
    labels = (tiny / "labels.csv").read_text().replace("c.png,blue", "c.png,")
    write(tiny / "labels.csv", labels)
    session = tmp_path / "run"
    store_maps(session / "npy/c.npz", np.array([0]), np.ones((1, 42, 48)))
    store_maps(session / "npy/f.npz", np.array([0, 1]), np.ones((2, 45, 48)) * [[[0]], [[1]]])
    if folder == "pseudo_label":
        make_seg_labels.main([*run["make_seg_labels"], "--refine", "crf"])
    shutil.rmtree(tiny / "masks")
    page, _ = report(session, "--dataset", "folder", "--dataset_root", str(tiny))
    shown = shown_in(page)
    assert shown.keys() == set("abcdef")
    assert shown["c"] == "covered 0.0 %: without a class"
    assert shown["f"] == "covered 100.0 %: most"
    assert next(iter(shown)) == "f"
    assert "Nothing has been measured" in page
    row = re.search(r"<td>red</td>(.*?)</tr>", page, re.S)[1]
    assert re.findall(r">([\d.]+)", row)[::2] == ["3", "1", "1"]  # pictures, nearly whole, equal
    assert page.count('<img alt="IS-CAM: red"') == 3
    assert page.count('<input type="checkbox">') == page.count("<img")  # a click enlarges each
    assert (session / "report.png").exists()


def test_pictures_without_a_class_are_not_the_best(session, tiny):
    labels = (tiny / "labels.csv").read_text().replace("c.png,blue", "c.png,")
    write(tiny / "labels.csv", labels)
    rows = [f"{image_id},{1 if image_id == 'c' else 0.5}" for image_id in KEYS]
    write(session / "eval_pseudo_label.csv", "\n".join(["id,miou", *rows]) + "\n")
    shown = shown_in(report(session)[0])
    assert shown["c"] == "mIoU 100.0 %: without a class of pseudo_label"
    assert list(shown) == ["a", "b", "d", "e", "f", "c"]


def test_cam_is_that_of_the_plain_classifier(session, tiny):
    dataset, keys, maps = Folder(tiny), np.array([0, 1]), np.ones((2, 40, 48))
    assert "CAM: red" not in gallery.drawings(session, dataset, "a")
    store_maps(session / "cam_only/npy/a.npz", keys, maps, maps[:1])
    assert {"CAM: red", "IS-CAM: red"} < gallery.drawings(session, dataset, "a").keys()


def test_commands_of_the_card_can_be_pasted(session):
    _, card = report(session)
    found = []
    for line in card.splitlines():
        if line.startswith("    python "):
            name, *words = shlex.split(line)[1:]
            args = importlib.import_module(name.removesuffix(".py")).parse_arguments(words)
            assert args.session_name == str(session)
            folder = getattr(args, "out_dir", None) or "pseudo_label"
            found.append((name, getattr(args, "gt_prob", None), str(folder)))
    crf = [(share, Path(folder).name) for name, share, folder in found if "make_seg" in name]
    assert sorted(crf) == [(0.6, "pseudo_label"), (0.7, "crf_label")]
    assert [name for name, *_ in found].count("eval_seg_labels.py") == 3


def test_names_are_text_and_nothing_they_name_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path / "evil.py", "raise SystemExit('imported')")
    session = tmp_path / "<b>[x](y)"
    bad = "evil:Class</code><script>alert(1)</script>"
    settings = {"dataset": "evil:Class", "network": "evil", "train_list": bad, "lr": {"a": [1]}}
    settings["commands"] = ["python x.py --dataset evil:Class", "python x.py '\n<script>'"]
    write(session / "args.json", {"train_resnet50_SIPE": settings, "evil": {"x": bad}})
    names = ("background", "<i>=HYPERLINK(1)|*b*")
    write(session / "eval_cam.json", result_of([[5, 1, 0], [2, 3, 0]], names))
    page, card = report(session)
    assert "<script" not in page + card.partition("## Commands")[0]
    assert "<i>" not in page
    assert r"&lt;b&gt;\[x\](y)" in card
    assert "--dataset evil:Class" in card


def test_what_is_damaged_is_left_out_and_said(session):
    write(session / "eval_pseudo_label.csv", "id,miou\n../images/a,0.5\n")  # an id that is a path
    (session / "npy/a.npz").write_bytes(b"no maps")
    (session / "eval_crf_label.json").write_bytes(b"[" * 100_000)
    page, _ = report(session)
    said = page.partition("<h2>Figures")[0]
    assert "eval_pseudo_label.csv" in said
    assert "eval_crf_label.json" in said
    assert page.count('<img alt="picture"') == len(KEYS)  # of the next evaluation


# --------------------------------------------------------------------------------- figures


def goals_of(session: Path, classes: list[str] | None = None) -> dict[str, str]:
    return {f.name: f.beside for f in figures.Run(session, classes).figures()}


def test_a_run_at_half_size_lies_beside_the_recorded_one(tmp_path, capsys):
    write(tmp_path / "curves.csv", table_of(read_recorded("voc_half_seed15")))
    write(tmp_path / "args.json", {"train_resnet50_SIPE": {"dataset": "voc"}})
    assert goals_of(tmp_path)["is_cam"] == "37.79"
    report(tmp_path)
    assert "published" not in capsys.readouterr().out
    write(tmp_path / "eval_cam.json", result_with(0.4, images=421))
    assert goals_of(tmp_path, ["cat"])["is_cam"] == ""  # of some classes nothing is recorded


def test_published_figures_stand_beside_what_they_are_of(tmp_path, capsys):
    write(tmp_path / "args.json", {"train_resnet50_SIPE": {"dataset": "voc"}})
    write(tmp_path / "curves.csv", table_of(read_recorded("voc_repository_run")))
    goals = goals_of(tmp_path)
    assert goals == {"cam": "50.1", "is_cam": "58.88", "irn": "68 to 69", "seg": "68.8"}
    write(tmp_path / "eval_cam.json", result_with(0.6))
    labels = {"program": "eval_seg_labels", "source": "run/plain", "settings": {}}
    write(tmp_path / "eval_plain.json", result_with(0.9, **labels))
    assert goals_of(tmp_path) == goals | {"labels in plain": ""}  # and no plain CAM
    write(tmp_path / "eval_cam.json", result_with(0.6, list="val", images=3))
    page, _ = report(tmp_path)
    assert "58.88 is of list train, not val; images 1464, not 3" in capsys.readouterr().out
    assert ">58.88<" not in page
    assert goals_of(tmp_path)["is_cam"] == ""


def test_plain_cam_is_that_of_a_classifier_without_gsc(tmp_path):
    cam = {"miou": 0.44, "threshold": 0.3, "iou": {}, "miou_by_threshold": []}
    write(tmp_path / "cam_only/eval_cam.json", result_with(0.4, cam=cam))
    for weight, names in ((0, {"cam": 44.0, "cam_ipe": 40.0}), (1, {"cam": None})):
        settings = {"train_resnet50_SIPE": {"gsc_weight": weight}}
        write(tmp_path / "cam_only/args.json", settings)
        run = figures.Run(tmp_path)
        found = {f.name: f.miou for f in run.figures() if f.name.startswith("cam")}
        assert found == pytest.approx(names)
        assert bool(run.unread) == (weight == 1)


def test_means_over_some_classes(tmp_path, capsys):
    counts = [[6, 2, 0, 0, 0], [0, 6, 4, 0, 0], [0, 0, 4, 0, 2], [0, 0, 0, 0, 0]]
    result = result_of(counts, ("background", "cat", "dog", "bus"))
    write(tmp_path / "eval_cam.json", result)
    texts = report(tmp_path, "--classes", "cat", "dog", "bus")
    assert re.search(rf"IS-CAM +{100 * (6 / 12 + 4 / 10) / 2:.2f}", capsys.readouterr().out)
    assert all("means over cat, dog, bus." in text for text in texts)
    with pytest.raises(InputError, match=r"--classes.* no class 'cow'.*background, cat"):
        report(tmp_path, "--classes", "cow")


# ----------------------------------------------------------------------------------- seeds


@pytest.fixture
def seeds(tmp_path) -> list[Path]:
    """Three sessions of three seeds."""
    sessions = [tmp_path / f"s_{seed}" for seed in (1, 2, 3)]
    for seed, (session, miou) in enumerate(zip(sessions, (0.6, 0.64, 0.62), strict=True), 1):
        digests = {"predictions": str(seed), "masks": "m"}
        settings = {"scales": [1.0, 0.5], "maps": {"digest": f"of {seed}"}}
        write(session / "eval_cam.json", result_with(miou, digests=digests, settings=settings))
        trained = {"seed": seed, "lr": 0.1, "session_name": str(session)}
        write(session / "args.json", {"train_resnet50_SIPE": trained})
    return sessions


def test_seeds_give_mean_and_deviation(seeds, capsys):
    program.main([*map(str, seeds)])
    assert re.search(r"IS-CAM +62\.00 ± 2\.00 +n=3", capsys.readouterr().out)
    found = json.loads((seeds[0] / "summary.json").read_text())["miou"]["is_cam"]
    assert found["values"] == pytest.approx([60, 64, 62])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("eval_cam", {"list": "val"}, "list of IS-CAM"),
        ("eval_cam", {"settings": {"scales": [1.0]}}, "settings of IS-CAM"),
        ("eval_cam", {"digests": {"predictions": "1", "masks": "m"}}, "same predictions"),
        ("args", {"train_resnet50_SIPE": {"seed": 1, "lr": 0.1}}, "same --seed"),
        ("args", {"train_resnet50_SIPE": {"seed": 9, "lr": 0.2}}, "--lr of train_resnet50_SIPE"),
    ],
)
def test_what_is_no_other_seed_is_not_put_together(file, change, message, seeds):
    path = seeds[1] / f"{file}.json"
    write(path, json.loads(path.read_text()) | change)
    with pytest.raises(InputError, match=re.escape(message)):
        program.main([*map(str, seeds)])
    assert not (seeds[0] / "summary.json").exists()


@pytest.mark.parametrize("refine", ["crf", "irn"])
def test_labels_are_of_the_program_that_made_them(refine):
    settings = {"program": "make_seg_labels", "refine": refine}
    result = {"program": "eval_seg_labels", "settings": settings}
    assert figures.kind_of("labels", result) == refine


@pytest.mark.parametrize("preset", ["half", "best"])
def test_goals_of_a_run_at_half_size_are_recorded_over_all_classes_and_the_seven(preset, tmp_path):
    write(tmp_path / "curves.csv", table_of(read_recorded(f"voc_{preset}_seed15")))
    write(tmp_path / "args.json", {"train_resnet50_SIPE": {"dataset": "voc"}})
    results = json.loads((FOLDER / "own_voc_half_results.json").read_text())
    seeds = results["preset_best"] if preset == "best" else results
    assert {2 * len(mious) for mious in seeds["miou"].values()} == {len(OWN)}
    seven = results["seven"][::-1]
    for classes, mious in ((None, "miou"), (seven, "miou_seven"), (["cat", "bus"], None)):
        run = figures.Run(tmp_path, classes)
        for kind in seeds["miou"]:
            expected = [np.mean(seeds[mious][kind])] if mious else []
            assert run.goals_of(kind, None)[0] == pytest.approx(expected, abs=1e-3)
        assert run.origin == "recorded"


def test_the_column_of_what_is_published_has_no_heading_where_nothing_is(tmp_path):
    for dataset, heading in (("voc", "published"), ("demo", "")):
        write(tmp_path / "args.json", {"train_resnet50_SIPE": {"dataset": dataset}})
        assert figures.Run(tmp_path, None).origin == heading
