"""run_voc.sh, run_coco.sh: their command lines, how they stop; tool/setup.sh: what it installs."""

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FLAGS

REPOSITORY = Path(__file__).parent.parent
TOGETHER = ["-m", "tool.launch", "--standalone", "--nproc_per_node=4"]
STEPS_CRF = ["train_resnet50_SIPE", "make_cam", "eval_cam", "make_seg_labels", "eval_seg_labels"]
STEPS_SEG = ["train_seg", "infer_seg", "eval_seg_labels"]
STEPS_IRN = [*STEPS_CRF[:3], "cam2ir", "train_irn", *STEPS_CRF[3:]]


def steps_of(lines: list[list[str]]) -> list[str]:
    """Return the programs of the command lines, without the preparation."""
    found = (next((word for word in line if word.endswith(".py")), "") for line in lines)
    return [name.removesuffix(".py") for name in found if name]


def arguments_of(lines: list[list[str]], program: str) -> list[str]:
    """Return what a program's command line says after its name."""
    line = next(line for line in lines if f"{program}.py" in line)
    return line[line.index(f"{program}.py") + 1 :]


def parsed(lines: list[list[str]], program: str) -> argparse.Namespace:
    """Return what a program understands of its command line."""
    return importlib.import_module(program).parse_arguments(arguments_of(lines, program))


def value_of(line: list[str], flag: str) -> str:
    """Return what stands behind a flag."""
    return line[line.index(flag) + 1]


@pytest.mark.parametrize(
    ("script", "refine", "steps"),
    [
        ("run_voc.sh", "", STEPS_IRN),
        ("run_voc.sh", "crf", STEPS_CRF),
        ("run_coco.sh", "", STEPS_CRF),
        ("run_coco.sh", "irn", STEPS_IRN),
    ],
)
def test_every_command_line_is_understood(script, refine, steps, command_lines, tmp_path):
    session = tmp_path / "a session"
    settings = {"SESSION": str(session), "NUM_WORKERS": "3", "DEVICE": "cpu", "REFINE": refine}
    settings["SEG_MODEL"] = "deeplabv1_resnet38"
    end, lines = command_lines(script, **settings)
    assert end.returncode == 0, end.stderr
    assert steps_of(lines) == [*steps, *STEPS_SEG]
    assert {parsed(lines, name).model for name in STEPS_SEG[:2]} == {"deeplabv1_resnet38"}
    assert value_of(lines[-2], "--label_dir") == str(session / "seg_deeplabv1_resnet38")
    assert value_of(lines[-2], "--eval_list") == "val"
    for name in [*steps, *STEPS_SEG[:2]]:
        args = parsed(lines, name)
        assert args.dataset == script[len("run_") : -len(".sh")]
        assert args.session_name == settings["SESSION"]
        assert (args.num_workers, args.device) == (3, "cpu")
    assert parsed(lines, "make_seg_labels").refine == ("irn" if "train_irn" in steps else "crf")
    times = (session / "seconds.txt").read_text().split()
    assert times[::2] == ["prepare", *steps, *STEPS_SEG[:2], "eval_seg"]
    assert lines[-1][:3] == ["-m", "tool.report", str(session)]
    assert lines[-1][3:] == lines[-2][1:5]  # the dataset


def test_processes_share_what_can_be_shared(command_lines, tmp_path):
    settings = {"REFINE": "irn", "DOCTOR": "0"}
    _, one = command_lines("run_voc.sh", **settings)
    _, four = command_lines("run_voc.sh", NPROC="4", **settings)
    launcher = tmp_path / "torchrun"  # on several machines, for example
    launcher.symlink_to(tmp_path / "python")
    _, launched = command_lines("run_voc.sh", LAUNCH=f"{launcher} --nnodes=2", **settings)
    for lines, words in ((four, TOGETHER), (launched, ["--nnodes=2"])):
        length = len(words)
        together = [line for line in lines if line[:length] == words]
        shared = [name for name in (*STEPS_IRN, *STEPS_SEG) if not name.startswith("eval")]
        assert steps_of(together) == shared
        assert [line[length:] if line in together else line for line in lines] == one


def test_the_doctor_looks_first_unless_told_not_to(command_lines):
    train = "--pretrained '/my w.pth' --lr 1 --crop_size=64"
    settings = {"TRAIN_FLAGS": train, "SEG_FLAGS": "--batch_size=3 --accumulate 4", "NPROC": "2"}
    _, lines = command_lines("run_voc.sh", REFINE="crf", **settings)
    assert lines[1][:2] == ["-m", "tool.doctor"]
    doctor = importlib.import_module("data.doctor.__main__")
    args = doctor.parse_arguments(lines[1][2:])
    assert (args.dataset, args.pretrained, args.crop_size) == ("voc", "/my w.pth", 64)
    assert (args.seg_batch_size, args.accumulate, args.irn_batch_size) == (3, 4, 0)
    assert args.processes == 2
    _, without = command_lines("run_voc.sh", REFINE="crf", **settings, DOCTOR="0")
    assert without == lines[:1] + lines[2:]


@pytest.mark.parametrize("script", ["run_voc.sh", "run_demo.sh"])
def test_seeds_run_one_after_the_other_and_end_with_a_table(script, command_lines, tmp_path):
    session = str(tmp_path / "s")
    _, lines = command_lines(script, SEEDS="3 14", SESSION=session, TRAIN_FLAGS="--seed 8")
    assert lines[-1] == ["-m", "tool.report", f"{session}_3", f"{session}_14"]
    for name, seeds in (("train_resnet50_SIPE", {8}), ("train_irn", {3, 14})):
        called = [line for line in lines if f"{name}.py" in line]
        assert {parsed([line], name).seed for line in called} == seeds
    sessions = {value_of(line, "--session_name") for line in lines if "--session_name" in line}
    assert {f"{session}_3", f"{session}_14"} <= sessions


def test_ablation_trains_the_classifier_without_gsc_too(command_lines, tmp_path):
    session = str(tmp_path / "s")
    _, lines = command_lines("run_voc.sh", SESSION=session, ABLATION="1")
    more = [line for line in lines if f"{session}/cam_only" in line]
    assert steps_of(more) == ["train_resnet50_SIPE", "make_cam", "eval_cam"]
    assert parsed(more, "train_resnet50_SIPE").gsc_weight == 0
    maps = parsed(more, "make_cam")
    assert (maps.save_cam, maps.infer_list) == (True, "train")
    _, without = command_lines("run_voc.sh", SESSION=session, ABLATION="no")
    assert [line for line in lines if line not in more] == without


def test_half_size_is_a_preset_whose_flags_the_user_may_change(command_lines):
    half = {"PRESET": "half", "VOC_ROOT": "/data/VOC2012/"}
    _, lines = command_lines("run_voc.sh", **half, TRAIN_FLAGS="--lr 0.01 --amp off")
    assert lines[0][-2:] == ["--halve", "/data/VOC2012_half"]
    train, labels, seg = (
        parsed(lines, name) for name in ("train_resnet50_SIPE", "make_seg_labels", "train_seg")
    )
    assert (train.dataset_root, train.max_epoches) == ("/data/VOC2012_half", 5)
    assert (train.crop_size, train.resize_min, train.resize_max) == (256, 160, 320)
    assert (train.lr, train.amp, train.repeat_rare) == (0.01, "off", 0)
    assert (labels.exp_times, labels.irn_crop_size, labels.amp) == (6, 256, "bf16")
    assert (seg.recipe, seg.amp) == ("short", "bf16")
    _, best = command_lines("run_voc.sh", **half | {"PRESET": "best"}, CAM_FLAGS="--scales 1")
    _, plain = command_lines("run_voc.sh", **half | {"PRESET": "best"}, CAM_FLAGS="--no-fit_scale")
    train, maps = parsed(best, "train_resnet50_SIPE"), parsed(best, "make_cam")
    assert (train.repeat_rare, train.max_epoches, train.crop_size) == (0.1, 4, 256)
    assert (maps.competitors, maps.background_weight, maps.scales) == ("present", 0.6, [1])
    fits = [parsed(run, "make_cam").fit_scale for run in (best, lines, plain)]
    assert fits == [True, False, False]
    assert parsed(best, "make_seg_labels").exp_times == 4
    assert [parsed(run, "infer_seg").classifier for run in (best, lines)] == ["final.pth", None]
    _, other = command_lines("run_voc.sh", **half, SEG_MODEL="deeplabv1_resnet38")
    assert parsed(other, "train_seg").recipe is None
    assert len(parsed(other, "infer_seg").scales) == 6


def test_datasets_as_published(command_lines):
    """Nothing validates the training on COCO; everything else is the default."""
    _, lines = command_lines("run_coco.sh")
    args = parsed(lines, "train_resnet50_SIPE")
    assert (args.val_freq, args.val_list, args.train_list) == (0, "train_sample", None)
    assert (args.max_epoches, args.batch_size, args.lr) == (5, 16, 0.1)


def test_a_step_that_fails_stops_the_script_with_a_sentence(command_lines):
    for program in ("data.coco", "tool.doctor", "make_cam.py", "eval_seg_labels.py"):
        end, lines = command_lines("run_coco.sh", FAIL=program)
        assert end.returncode == 1
        assert program in lines[-1]  # nothing was called after it
    assert end.stderr.strip().splitlines()[-1].startswith("error: '")


WRONG = {
    "REFINE": ["IRN"],
    "SEG_MODEL": ["v2"],
    "NPROC": ["two", "0", "9" * 20],
    "NUM_WORKERS": ["-1", " "],
    "SEED": ["x"],
    "SEEDS": ["1 x", "1 01", "9" * 30],
    "DOWNLOAD": ["maybe"],
    "PRESET": ["tiny"],
    "SESSION": ["run_voc.sh/inside", "n" * 300],
    "PYTHON": ["./pyhton", "cat"],
    "LAUNCH": ["--a 'b"],
    "SEG_FLAGS": ["--a 'b"],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_setting_is_found_before_anything_runs(name, command_lines):
    for value in WRONG[name]:
        end, lines = command_lines("run_voc.sh", **{name: value})
        assert (end.returncode, lines) == (2, [])
        assert end.stderr.startswith("error: ")
        assert name in end.stderr


# How a shell splits text into words.
TEXTS = {
    " \t ": [],
    "--a 1\n --b": ["--a", "1", "--b"],
    "--a '/my weights/x.pth'": ["--a", "/my weights/x.pth"],
    r'--a "x \" y"': ["--a", 'x " y'],
    r"--a x\ y": ["--a", "x y"],
    "--a ''": ["--a", ""],
    "--a $(touch made) `touch made` $HOME * #x;": (
        ["--a", "$(touch", "made)", "`touch", "made`", "$HOME", "*", "#x;"]
    ),
    "-n -e": ["-n", "-e"],
    "--c größe": ["--c", "größe"],
}


def test_flags_reach_their_program_alone_split_as_by_a_shell(command_lines, tmp_path):
    """Nothing of them is executed."""
    texts = dict(zip(FLAGS.values(), TEXTS, strict=True))
    _, lines = command_lines(
        "run_coco.sh",
        tmp_path,
        REFINE="irn",
        PREPARE_FLAGS="--a 'b c'",
        PYTHONIOENCODING="ascii",  # of a terminal that is not UTF-8
        **texts,
    )
    _, plain = command_lines("run_coco.sh", tmp_path, REFINE="irn")
    for program, name in FLAGS.items():
        expected = [*arguments_of(plain, program), *TEXTS[texts[name]]]
        assert arguments_of(lines, program) == expected
    assert lines[0] == [*plain[0], "--a", "b c"]
    assert not list(tmp_path.rglob("made"))


@pytest.mark.parametrize("session", ["-s", 'it\'s "b" l&k;x $HOME/s'])
@pytest.mark.parametrize(
    ("script", "roots", "used"),
    [
        ("run_voc.sh", {"VOC_ROOT": "v 12", "SBD_ROOT": "-s&d"}, "v 12"),
        ("run_coco.sh", {"COCO_ROOT": "ms_coco_14&15", "LINK_ROOT": "-l&k 14"}, "-l&k 14"),
    ],
)
def test_relative_paths_count_from_where_the_script_was_started(
    script, roots, used, session, command_lines, tmp_path
):
    here = tmp_path / "here & there"
    here.mkdir()
    (here / "python").symlink_to(tmp_path / "python")
    end, lines = command_lines(script, here, SESSION=session, PYTHON="./python", **roots)
    assert end.returncode == 0, end.stderr
    names = {value_of(line, "--session_name") for line in lines if "--session_name" in line}
    assert names == {f"{here}/{session}"}
    assert (here / session / "seconds.txt").is_file()
    assert lines[0][3::2] == [f"{here}/{value}" for value in roots.values()]
    assert {value_of(line, "--dataset_root") for line in lines[1:]} == {f"{here}/{used}"}


# What bash 3.2 lacks, which macOS has, and an example of each.
NEWER = {
    r"\b(mapfile|readarray)\b": "mapfile -t lines",
    r"\b(declare|local|typeset) -\w*[Agnlu]": "declare -A table",
    r"\$\{\w+(\[[@*]\])?(\^|,|@[A-Z])": "${name,,}",
    r"\[-\d+\]": "${array[-1]}",
    r"&>>|\|&|;;?&": "run &>> log",
    r"\bcoproc\b": "coproc run",
    r"\[ -v ": "[[ -v name ]]",
    r"\bwait (-[np]|\"\$!\")": 'wait "$!"',
    r"printf [^\n]*%\(": "printf '%(%F)T'",
    r"\bread -\w*[iN]": "read -N 1",
    r"shopt -s (globstar|lastpipe|inherit_errexit)": "shopt -s lastpipe",
    r"\$\{?(BASHPID|EPOCH\w+|SRANDOM)": "$EPOCHSECONDS",
    r"\{\d+\.\.\d+\.\.|\{0\d+\.\.": "{01..10}",
}


@pytest.mark.parametrize("pattern", NEWER)
def test_scripts_use_nothing_that_bash_3_lacks(pattern):
    scripts = [path for folder in (".", "tool") for path in (REPOSITORY / folder).glob("*.sh")]
    assert re.search(pattern, NEWER[pattern])
    assert len(scripts) > 5
    assert [path.name for path in scripts if re.search(pattern, path.read_text())] == []


ODD = ("NAME", "ALL", "CAM", "TRAIN", "DATA", "LAUNCHER", "OMP_NUM_THREADS", "WORDS", "CDPATH")
EMPTY = (*ODD, *FLAGS.values(), "REFINE", "NPROC", "DEVICE", "LAUNCH", "LINK_ROOT", "SEED")


@pytest.mark.parametrize("script", ["run_voc.sh", "run_demo.sh"])
def test_what_changes_nothing(script, command_lines):
    """Other names in the environment, as NAME in Windows' Linux; and settings that are empty."""
    _, plain = command_lines(script)
    for names, value in ((ODD, "/ a"), (EMPTY, "")):
        end, lines = command_lines(script, **dict.fromkeys(names, value))
        assert (end.returncode, lines) == (0, plain), end.stderr


# ------------------------------------------------------------------------------- tool/setup.sh

LINES = """-r other.txt
first>=1.0
second>=2
# a remark
linter>=3,<4 # optional
witness>=5; python_version < "3.13" # optional
"""
# Plays an interpreter that lacks everything, and the pip of the environment that it makes.
BARE = """#!/usr/bin/env bash
case "$1 ${2:-} ${3:-}" in
    "- "*) [[ $0 == .venv/* ]] && exit 0; exit 1 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install")
        shift 3
        printf '%s|' "$@" >> installed
        echo >> installed
        [[ $* != *"$BROKEN"* ]] ;;
esac
"""


@pytest.fixture
def set_up(tmp_path):
    """Source tool/setup.sh in a folder of its own; return its end and what pip was asked for."""
    (tmp_path / "requirements.txt").write_text(LINES)
    (tmp_path / "bare").write_text(BARE)
    (tmp_path / "bare").chmod(0o755)

    def run(code: str = "", python: str = "./bare", broken: str = "nothing"):
        line = f"set -euo pipefail\n{code}\nsource {REPOSITORY}/tool/setup.sh\necho $PYTHON"
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        env = {"PATH": path, "PYTHON": python, "BROKEN": broken}
        command = ["bash", "-c", line]
        end = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        asked = tmp_path / "installed"
        lines = asked.read_text().splitlines() if asked.exists() else []
        return end, [
            [word for word in line.split("|") if word[:2] not in ("", "--")] for line in lines
        ]

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(tmp_path / "bare")
    return run


def test_what_is_missing_goes_into_an_environment(set_up):
    """What is optional may fail with one line."""
    end, asked = set_up(broken="witness")
    assert end.returncode == 0, end.stderr
    assert end.stdout.splitlines()[1:] == ["witness cannot be installed here.", ".venv/bin/python"]
    optional = [["linter>=3,<4"], ['witness>=5; python_version < "3.13"']]
    assert asked == [["first>=1.0", "second>=2"], *optional]
    again, still = set_up()
    assert (again.returncode, still) == (0, asked)


@pytest.mark.parametrize(
    ("line", "everything", "enough"),
    [
        ("pytest>=999", "", False),
        ("no_such_package>=1 # optional", "", True),
        ("no_such_package>=1 # optional", "EVERYTHING=1", False),
        ('pytest>=1.0,<999; python_version < "3.99" # optional', "EVERYTHING=1", True),
    ],
)
def test_an_interpreter_that_has_the_requirements_is_taken(
    line, everything, enough, set_up, tmp_path
):
    (tmp_path / "dev.txt").write_text(f"{line}\npytest>=1.0\n")
    end, asked = set_up(f"REQUIREMENTS=(dev.txt)\n{everything}", sys.executable)
    assert (end.stdout.splitlines()[-1] == sys.executable) is enough
    assert bool(asked) is not enough


def test_an_environment_that_does_not_start_is_named(set_up, tmp_path):
    end, _ = set_up(broken="second")
    assert end.returncode == 1
    assert end.stderr.startswith("error: ")
    python = tmp_path / ".venv/bin/python"
    python.unlink()
    python.symlink_to("gone")
    end, _ = set_up()
    assert (end.returncode, ".venv" in end.stderr) == (1, True)
