"""The session folder, command lines and progress."""

import argparse
import importlib
import json
import logging
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from data.datasets import make_parser, open_dataset
from tests.pretend_gpu import pretend_gpus
from tool import cli
from tool import progress as progress_module
from tool.cores import cores
from tool.errors import InputError
from tool.progress import progress
from tool.session import Session, find_checkpoint

log = logging.getLogger("tool.test")


def settings(*words: str, **values) -> cli.Settings:
    args = cli.Settings(**values)
    args.words = words
    return args


# --- the session folder


def test_log_is_complete_at_any_moment_and_has_what_the_console_does_not_show(tmp_path, capsys):
    Session(tmp_path / "deep/run", "program", settings(lr=0.1))
    path = tmp_path / "deep/run/run.log"
    log.debug("fine detail")
    logging.getLogger("PIL.PngImagePlugin").debug("chunk")
    log.info("last")
    text, shown = path.read_text(), "".join(capsys.readouterr())
    assert text.splitlines()[-1] == "last"
    for line, in_console in {"last": True, "fine detail": False, "lr": False}.items():
        assert line in text
        assert (line in shown) == in_console
    assert "chunk" not in text


def test_a_redirected_console_is_complete_at_any_moment(tmp_path, monkeypatch):
    with open(tmp_path / "console.txt", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        Session(tmp_path / "run", "program", settings())
        log.info("last")
        assert (tmp_path / "console.txt").read_text().splitlines()[-1] == "last"


def test_log_of_a_continued_run_is_appended_and_another_session_ends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        Session(".", name, settings()).accept()
    Session("other", "third", settings()).accept()
    lines = (tmp_path / f"{tmp_path.name}.log").read_text().splitlines()
    assert [line.split(" -> ")[0] for line in lines if " -> " in line] == ["first", "second"]
    assert "third" in (tmp_path / "other/other.log").read_text()


def test_settings_are_written_when_accepted_and_those_of_other_programs_are_kept(tmp_path):
    Session(tmp_path, "make_cam", settings(scales=(1.0, 0.5), ckpt=Path("a/final.pth"))).accept()
    args = settings("--lr", "0.2", lr=0.2, train_list=None)
    session = Session(tmp_path, "train", args)
    assert json.loads((tmp_path / "args.json").read_text()).keys() == {"make_cam"}
    args.train_list = "train"  # what a program finds while it looks around
    session.accept(fresh="all")
    everything = json.loads((tmp_path / "args.json").read_text())
    assert everything["train"].pop("versions")["torch"] == torch.__version__
    assert everything["train"].pop("commands") == ["python train.py --lr 0.2"]
    assert everything["make_cam"].pop("versions")
    assert everything["make_cam"].pop("commands") == ["python make_cam.py"]
    assert everything == {
        "train": {"lr": 0.2, "train_list": "train", "fresh": "all"},
        "make_cam": {"scales": [1.0, 0.5], "ckpt": str(Path("a/final.pth"))},
    }


def test_commands_of_a_program_are_kept_once_and_the_latest_is_last(tmp_path):
    for words in ("--refine crf", "--out 'a b'", "--refine crf", "--restart"):
        session = Session(tmp_path, "make_seg_labels", settings(*shlex.split(words)))
        if words != "--restart":  # which is refused
            session.accept()
    noted = json.loads((tmp_path / "args.json").read_text())["make_seg_labels"]["commands"]
    expected = ("--out 'a b'", "--refine crf")
    assert noted == [f"python make_seg_labels.py {flags}" for flags in expected]


def test_a_folder_of_somebody_else_is_no_session(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"--session_name .*a\.jpg"):
        Session(tmp_path, "train", settings())
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
    (tmp_path / "seconds.txt").write_text("")
    Session(tmp_path, "train", settings()).accept()
    for name in ("seconds.txt", "args.json"):  # the log is left
        (tmp_path / name).unlink()
    Session(tmp_path, "train", settings())


def test_a_checkpoint_of_the_session_comes_before_one_of_the_working_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Session("run", "make_cam", settings())
    with pytest.raises(InputError, match=r"run/ckpt/final\.pth"):
        find_checkpoint(Path("run"), "final.pth")
    (tmp_path / "run/ckpt").mkdir()
    for folder in (Path(), Path("run/ckpt")):
        (folder / "final.pth").write_bytes(b"")
        assert find_checkpoint(Path("run"), "final.pth") == folder / "final.pth"


@pytest.mark.parametrize("name", ["taken/inside", "log"])
def test_session_that_cannot_be_written_names_the_flag(tmp_path, name):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "log/log.log").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"--session_name .*{name}"):
        Session(tmp_path / name, "train", settings()).accept()


# --- command lines


@pytest.mark.parametrize(
    ("bound", "files", "expected"),
    [
        (3, {}, 3),
        (8, {"cpu.max": "max 100000"}, 8),
        (8, {"cpu.max": "250000 100000"}, 2),
        (8, {"cpu.max": "50000 100000"}, 1),
        (2, {"cpu.max": "1600000 100000"}, 2),
    ],
)
def test_cores_are_those_that_this_process_may_use(bound, files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(bound))
    monkeypatch.setattr("tool.cores.CGROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert cores() == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert make_parser("").parse_args([]).num_workers == max(1, expected // 2)


def test_settings_that_decide_nothing_under_others_are_left_out():
    parser = cli.Parser("")
    parser.add_deciding("--crf", action="store_true")
    parser.add_deciding("--scales", type=float, default=[1.0], only={"crf": True})
    parser.add_deciding("--file")
    parser.add_deciding("--share", type=float, default=0.5, only={"file": True})
    assert cli.deciding(parser.parse_args([])) == {"crf": False, "file": None}
    given = cli.deciding(parser.parse_args(["--crf", "--file", "a"]))
    assert given == {"crf": True, "scales": [1.0], "file": "a", "share": 0.5}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.at_least(1), ["1", "+2"], ["0", "-1", "1.5", "3000000000"]),
        (cli.number, ["0", "1e-4"], ["-1", "inf", "1e16"]),
        (cli.above_zero, ["1e-9"], ["0", "nan"]),
        (cli.fraction, ["0.9"], ["0", "1", "nan"]),
    ],
)
def test_wrong_numbers_are_refused_with_the_flag(capsys, kind, good, bad):
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag", type=kind)
    for text in good:
        assert parser.parse_args([f"--flag={text}"]).flag == float(text)
    for text in bad:
        with pytest.raises(SystemExit):
            parser.parse_args([f"--flag={text}"])
        assert "argument --flag: " in capsys.readouterr().err


def test_unknown_dataset_lists_the_known():
    parser = make_parser("A program.")
    with pytest.raises(InputError, match=r"imagenet.* demo, folder, voc"):
        open_dataset(parser.parse_args(["--dataset", "imagenet"]))


def test_a_device_is_set_to_round_no_product():
    torch.backends.cuda.matmul.allow_tf32 = True
    for tf32 in (False, True):
        assert cli.pick_device("cpu", tf32) == torch.device("cpu")
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert cli.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pretend_gpus(2):
        assert cli.pick_device("auto") == torch.device("cuda", 1)
        with pytest.raises(InputError, match="--device cuda:0: 2 processes"):
            cli.pick_device("cuda:0")
    with pretend_gpus(1), pytest.raises(InputError, match="--device cuda: 2 processes"):
        cli.pick_device("auto")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "hpu", "meta", "mps:0"])
def test_device_that_does_not_exist_names_the_flag(name):
    with pytest.raises(InputError, match=f"--device {name}: "):
        cli.pick_device(name)


def test_autocast_follows_the_flag():
    weight, device = torch.ones(2, 2), torch.device("cpu")
    for amp, dtype in (("off", torch.float32), ("bf16", torch.bfloat16)):
        with cli.autocast(amp, device):
            assert (weight @ weight).dtype == dtype


PROGRAMS = sorted(path.stem for path in Path().glob("*.py") if path.stem != "hubconf")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_in_groups_and_names_the_defaults_that_there_are(program, capsys):
    module = importlib.import_module(program)
    with pytest.raises(SystemExit):
        module.parse_arguments(["--help"])
    text = capsys.readouterr().out
    assert text.splitlines()[0].endswith("[flags]")
    assert "\n\ninputs:\n" in text
    assert "(default: " in text
    assert not re.search(r"default: (None|False|\{\})|\* \(default|\*\n", text)
    assert max(map(len, text.splitlines())) <= 100
    settings = text.partition("\nsettings:\n")[2]
    parts = text.split("\n\n")
    of_speed = next((part for part in parts if part.startswith("speed:")), "speed:")
    assert "--device" not in settings.partition("\n\n")[0]
    assert ("--amp" in text) == ("--amp" in of_speed)


# --- progress


@pytest.mark.parametrize(("seconds", "shares"), [(0.0, (0, 25, 50, 75, 100)), (60.0, (0,))])
def test_progress_reports_now_and_then_and_weighs_items(seconds, shares, caplog, monkeypatch):
    """The last line comes in any case."""
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", seconds)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO)
    assert list(progress(iter("abcd"), 16, "work", lambda item: 4)) == list("abcd")
    shown = [re.match(r"work: +(\d+)% \d+/16 \[.*pic/s", line)[1] for line in caplog.messages]
    assert [int(share) for share in shown] == [*shares, 100]
    caplog.clear()
    assert list(progress([], 0, "nothing")) == []
    assert caplog.messages == []


def test_bar_on_a_terminal(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(4), 4, "work")) == [0, 1, 2, 3]
    assert "work: 100%" in capsys.readouterr().err
    assert caplog.records == []
