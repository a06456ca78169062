"""The session folder, command lines, progress, and files that appear whole or not at all."""

import argparse
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from data.datasets import add_dataset_flags, open_dataset
from data.folder import Folder
from data.loaders import ScaledPictures, one_by_one
from tool import cli
from tool import progress as progress_module
from tool.cores import cores
from tool.errors import InputError
from tool.progress import progress
from tool.run import run
from tool.session import Session

ROOT = Path(__file__).parents[1]
log = logging.getLogger("tool.test")


@pytest.fixture(autouse=True)
def loggers():
    """Put the loggers back, whatever a session did to them."""
    root, packages = logging.getLogger(), ("__main__", "net", "data", "tool")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in packages}
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(False)


def settings(**values) -> argparse.Namespace:
    return argparse.Namespace(**values)


def stored(session: Session) -> dict:
    return json.loads((session.path / "args.json").read_text())


# --- the session folder


def test_log_is_complete_at_any_moment_and_has_what_the_console_does_not_show(tmp_path, capsys):
    session = Session(tmp_path / "deep" / "run", "program", settings(lr=0.1))
    log.info("before")
    assert not (tmp_path / "deep/run/run.log").exists()  # the program may still refuse
    session.accept()
    path = tmp_path / "deep/run/run.log"
    for number in range(3):
        log.info("line %d", number)
        assert path.read_text().splitlines()[-1] == f"line {number}"
    log.debug("fine detail")
    logging.getLogger("PIL.PngImagePlugin").debug("chunk")
    text, shown = path.read_text(), "".join(capsys.readouterr())
    assert f"program -> {session.path}" in text
    expected = {"before": True, "line 2": True, "fine detail": False, "lr": False}
    for line, in_console in expected.items():
        assert line in text
        assert (line in shown) == in_console
    assert "chunk" not in text


def test_log_of_a_continued_run_is_appended_and_another_session_ends_it(tmp_path):
    for name in ("first", "second"):
        Session(tmp_path / "run", name, settings()).accept()
    Session(tmp_path / "other", "third", settings())
    lines = (tmp_path / "run/run.log").read_text().splitlines()
    starts = [line.split(" -> ")[0] for line in lines if " -> " in line]
    assert starts == ["first", "second"]


def test_session_in_the_working_directory_is_called_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Session(".", "program", settings()).accept()
    assert (tmp_path / f"{tmp_path.name}.log").is_file()
    Session("named", "program", settings()).accept()
    assert (tmp_path / "named/named.log").is_file()


def test_settings_of_other_programs_are_kept(tmp_path):
    Session(tmp_path, "train", settings(lr=0.1, seed=15)).accept()
    Session(tmp_path, "make_cam", settings(scales=(1.0, 0.5), ckpt=Path("a/final.pth"))).accept()
    args = settings(lr=0.2, train_list=None)
    session = Session(tmp_path, "train", args)
    args.train_list = "train"  # what a program settles while it looks around
    session.accept(fresh="all")
    everything = stored(session)
    assert everything["train"].pop("versions")["torch"] == torch.__version__
    assert everything["make_cam"].pop("versions")
    assert everything == {
        "train": {"lr": 0.2, "train_list": "train", "fresh": "all"},
        "make_cam": {"scales": [1.0, 0.5], "ckpt": str(Path("a/final.pth"))},
    }


def test_settings_are_not_written_before_they_are_accepted(tmp_path):
    session = Session(tmp_path, "train", settings(lr=0.1))
    session.accept()
    Session(tmp_path, "train", settings(lr=0.2))
    assert stored(session)["train"]["lr"] == 0.1


@pytest.mark.parametrize("text", ['{"train": {', "", "\xff", "[]"])
def test_broken_settings_are_named(tmp_path, text):
    (tmp_path / "args.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"args\.json"):
        Session(tmp_path, "train", settings())


def test_a_folder_of_somebody_else_is_no_session(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"--session_name .*photos: .*a\.jpg"):
        Session(tmp_path / "photos", "train", settings())
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    (tmp_path / "run/npy").mkdir(parents=True)  # maps from elsewhere
    (tmp_path / "run/seconds.txt").write_text("")
    Session(tmp_path / "run", "train", settings())  # it is refused later
    (tmp_path / "run/README.md").write_text("of the report")
    Session(tmp_path / "run", "train", settings()).accept()
    (tmp_path / "run/args.json").unlink()
    Session(tmp_path / "run", "train", settings())


def test_a_checkpoint_of_the_session_comes_before_one_of_the_working_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    session = Session("run", "make_cam", settings())
    with pytest.raises(InputError, match=r"run/ckpt/final\.pth"):
        session.checkpoint("final.pth")
    (tmp_path / "final.pth").write_bytes(b"")
    assert session.checkpoint("final.pth") == Path("final.pth")
    (tmp_path / "run/ckpt").mkdir()
    (tmp_path / "run/ckpt/final.pth").write_bytes(b"")
    assert session.checkpoint("final.pth") == Path("run/ckpt/final.pth")
    assert session.checkpoint(str(tmp_path / "final.pth")) == tmp_path / "final.pth"


@pytest.mark.parametrize("name", ["taken", "taken/inside", "log"])
def test_session_that_cannot_be_written_names_the_flag(tmp_path, name):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "log/log.log").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"--session_name .*{name}: nothing can be written"):
        Session(tmp_path / name, "train", settings()).accept()


# --- command lines


def test_shared_flags_and_their_defaults():
    parser = cli.make_parser("A program.")
    add_dataset_flags(parser)
    args = parser.parse_args([])
    assert (args.dataset, args.dataset_root, args.session_name) == ("voc", None, "exp")
    assert args.device == "auto"
    assert args.num_workers == min(cores(), cli.MOST_WORKERS)


@pytest.mark.parametrize(
    ("bound", "files", "expected"),
    [
        ({0, 3, 5}, {}, 3),
        (set(range(8)), {"cpu.max": "max 100000"}, 8),
        (set(range(8)), {"cpu.max": "250000 100000"}, 2),
        (set(range(8)), {"cpu.max": "50000 100000"}, 1),
        ({0, 1}, {"cpu.max": "1600000 100000"}, 2),
        (set(range(8)), {"cpu.max": "odd"}, 8),
        (set(range(8)), {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (set(range(8)), {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_cores_are_those_that_this_process_may_use(bound, files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: bound)
    monkeypatch.setattr("tool.cores.CGROUP", tmp_path)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert cores() == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cli.make_parser("").parse_args([]).num_workers == max(1, expected // 2)


def test_docstring_is_the_help_with_every_default(capsys):
    parser = cli.make_parser("First line.\n\n  kept   layout")
    cli.add_network_flag(parser)
    cli.add_speed_flags(parser)
    cli.add_visualize_flag(parser, "draw")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert "  kept   layout" in text
    assert "(default: exp)" in text
    assert "--no-visualize" in text
    args = parser.parse_args(["--visualize"])
    assert (args.visualize, args.network, args.amp) == (True, "net.resnet50_SIPE", "off")
    assert parser.parse_args(["--no-visualize"]).visualize is False


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.at_least(1), ["1", "16", "+2"], ["0", "-1", "1.5", "many", "", "3000000000"]),
        (cli.number, ["0", "1e-4"], ["-1", "nan", "inf", "1e16", "x"]),
        (cli.above_zero, ["1e-9"], ["0", "-1", "nan"]),
        (cli.fraction, ["0.9"], ["0", "1", "-0.5", "nan", "much"]),
    ],
)
def test_wrong_numbers_are_refused_with_the_flag(capsys, kind, good, bad):
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag", type=kind)
    for text in good:
        assert parser.parse_args([f"--flag={text}"]).flag == float(text)
    for text in bad:
        with pytest.raises(SystemExit) as caught:
            parser.parse_args([f"--flag={text}"])
        assert caught.value.code == 2
        assert "argument --flag: " in capsys.readouterr().err


def test_unknown_dataset_lists_the_known():
    parser = cli.make_parser("A program.")
    add_dataset_flags(parser)
    with pytest.raises(InputError, match=r"imagenet.* demo, folder, voc"):
        open_dataset(parser.parse_args(["--dataset", "imagenet"]))


def test_dataset_is_opened_where_the_flag_says(tiny):
    parser = cli.make_parser("A program.")
    add_dataset_flags(parser)
    args = parser.parse_args(["--dataset", "folder", "--dataset_root", str(tiny)])
    assert open_dataset(args).ids("train") == list("abcdef")
    args.dataset_root = str(tiny / "nowhere")
    with pytest.raises(InputError, match="--dataset_root"):
        open_dataset(args)


def test_devices():
    assert cli.pick_device("cpu") == torch.device("cpu")
    assert cli.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:x", "", "0", "hpu", "meta", "mps:0"])
def test_device_that_does_not_exist_names_the_flag(name):
    with pytest.raises(InputError, match=rf"--device {name}: .*Try auto, cpu, cuda or cuda:N\.$"):
        cli.pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_on_a_machine_without_it_names_the_flag():
    with pytest.raises(InputError, match=r"--device cuda: .*Try auto"):
        cli.pick_device("cuda")


def test_a_device_is_set_to_round_no_product():
    torch.backends.cuda.matmul.allow_tf32 = True
    for tf32 in (False, True):
        cli.pick_device("cpu", tf32)
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def test_autocast_follows_the_flag():
    weight, device = torch.ones(2, 2), torch.device("cpu")
    for amp, dtype in (("off", torch.float32), ("bf16", torch.bfloat16)):
        with cli.autocast(amp, device):
            assert (weight @ weight).dtype == dtype


def failing(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("There is no picture a.jpg."), 2, "error: There is no picture a.jpg."),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
    ],
)
def test_what_ends_as_a_sentence(caplog, error, code, said):
    with pytest.raises(SystemExit) as caught:
        run(failing(error))
    assert caught.value.code == code
    assert [record.getMessage() for record in caplog.records] == [said]
    assert caplog.records[0].exc_info is None


def test_mistake_found_by_a_worker_ends_as_the_same_sentence(tiny, caplog):
    path = tiny / "images/c.png"
    path.write_bytes(b"")
    pictures = ScaledPictures(Folder(tiny), ["a", "c"], (1.0,))
    items = iter(one_by_one(pictures, num_workers=1))
    caplog.clear()  # of what the folder says of its labels
    with pytest.raises(SystemExit) as caught:
        run(lambda: list(items))
    assert caught.value.code == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"error: {path} is not a picture that can be read. Replace it."
    ]
    items._shutdown_workers()  # left to the garbage collector it takes five seconds


def test_mistake_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_success_ends_quietly(caplog):
    assert run(lambda: None) is None
    assert caplog.records == []


def test_script_prints_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "data.voc", "--dataset_root", str(tmp_path / "nowhere")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    output = (done.stdout + done.stderr).strip().splitlines()
    assert len(output) == 1, output
    assert "nowhere" in output[0]
    assert "--dataset_root" in output[0]


# --- progress


class Clock:
    """Time that passes ``step`` seconds whenever someone looks."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_progress_yields_everything_in_order_and_reports_the_end(messages):
    assert list(progress(iter("abc"), 3, "work")) == ["a", "b", "c"]
    assert len(messages()) == 1
    assert messages()[0].startswith("work: 3/3, ")
    assert messages()[0].endswith(" a second, 00:00 left")


def test_progress_reports_now_and_then(messages, monkeypatch):
    monkeypatch.setattr(progress_module, "time", Clock(step=7.0))
    list(progress(range(8), 8, "work"))
    # A line after 21, 42 and (the last) 56 seconds.
    assert messages() == [
        "work: 3/8, 7.0 s each, 00:35 left",
        "work: 6/8, 7.0 s each, 00:14 left",
        "work: 8/8, 7.0 s each, 00:00 left",
    ]


def test_progress_weighs_items(messages):
    assert list(progress([2, 3], 5, "work", lambda item: item)) == [2, 3]
    assert messages()[-1].startswith("work: 5/5")


def test_progress_of_nothing(messages):
    assert list(progress([], 0, "work")) == []
    assert messages() == []


def test_progress_of_instant_work_divides_by_no_zero(messages, monkeypatch):
    monkeypatch.setattr(progress_module, "time", Clock(step=0.0))
    assert list(progress([1], 1, "work")) == [1]


def test_progress_counts_an_item_only_when_it_is_done(messages, monkeypatch):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    counts = []
    for _ in progress(range(3), 3, "work"):
        counts.append(len(messages()))
    assert counts == [0, 1, 2]


def test_bar_on_a_terminal(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(4), 4, "work")) == [0, 1, 2, 3]
    assert "work: 100%" in capsys.readouterr().err
    assert caplog.records == []


def test_error_in_the_middle_reaches_the_caller(messages):
    def items():
        yield 1
        raise InputError("broken picture")

    with pytest.raises(InputError, match="broken picture"):
        list(progress(items(), 2, "work"))


def test_time_is_not_taken_from_the_wall(monkeypatch, messages):
    """A clock that is set back must not stop the lines."""
    monkeypatch.setattr(time, "time", lambda: -1e9)
    list(progress(range(2), 2, "work"))
    assert messages()[-1].startswith("work: 2/2")
