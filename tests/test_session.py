"""The session folder, command lines, progress, and files that appear whole or not at all."""

import argparse
import errno
import json
import logging
import os
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
from tool.files import write_atomic, write_json
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


def test_log_is_complete_at_any_moment(tmp_path):
    session = Session(tmp_path / "deep" / "run", "program", settings(lr=0.1))
    path = tmp_path / "deep/run/run.log"
    for number in range(3):
        log.info("line %d", number)
        assert path.read_text().splitlines()[-1] == f"line {number}"
    log.debug("fine detail")
    text = path.read_text()
    assert f"program -> {session.path}" in text
    assert "settings: {'lr': 0.1}" in text
    assert "fine detail" in text


def test_log_of_a_continued_run_is_appended(tmp_path):
    Session(tmp_path / "run", "one", settings())
    log.info("first")
    Session(tmp_path / "run", "two", settings())
    log.info("second")
    lines = (tmp_path / "run/run.log").read_text().splitlines()
    assert lines.count("first") == lines.count("second") == 1
    assert lines.index("first") < lines.index("second")


def test_second_session_ends_the_log_of_the_first(tmp_path):
    Session(tmp_path / "a", "program", settings())
    Session(tmp_path / "b", "program", settings())
    log.info("only in b")
    assert "only in b" not in (tmp_path / "a/a.log").read_text()
    assert (tmp_path / "b/b.log").read_text().count("only in b") == 1


def test_console_shows_messages_but_no_details(tmp_path, capsys):
    Session(tmp_path / "run", "program", settings(lr=0.1))
    log.info("shown")
    log.debug("hidden")
    shown = "".join(capsys.readouterr())
    assert "shown" in shown
    assert "hidden" not in shown
    assert "settings" not in shown


def test_details_of_other_libraries_stay_out_of_the_log(tmp_path):
    Session(tmp_path / "run", "program", settings())
    logging.getLogger("PIL.PngImagePlugin").debug("chunk")
    assert "chunk" not in (tmp_path / "run/run.log").read_text()


def test_session_in_the_working_directory_is_called_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Session(".", "program", settings())
    assert (tmp_path / f"{tmp_path.name}.log").is_file()
    Session("named", "program", settings())
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


@pytest.mark.parametrize("text", ['{"train": {', "", "\xff", "[]", '{"train": 3}'])
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
    for _ in range(2):  # the first one is refused later, and leaves a log
        session = Session(tmp_path / "run", "train", settings())
    session.accept()
    (tmp_path / "run/README.md").write_text("of the report")
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


def test_session_that_cannot_be_made_names_the_flag(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for name in (tmp_path / "taken", tmp_path / "taken" / "inside"):
        with pytest.raises(InputError, match=r"--session_name .*taken.*nothing can be written"):
            Session(name, "train", settings())


def test_session_whose_log_cannot_be_opened_names_the_flag(tmp_path):
    (tmp_path / "run/run.log").mkdir(parents=True)
    with pytest.raises(InputError, match=r"--session_name .*run: nothing can be written"):
        Session(tmp_path / "run", "train", settings())


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


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("16", 16), ("+2", 2)])
def test_at_least_accepts(text, number):
    assert cli.at_least(1)(text) == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "argument --num_workers: at least 0, not -1"),
        ("1.5", "argument --num_workers: invalid whole number value: '1.5'"),
        ("many", "argument --num_workers: invalid whole number value: 'many'"),
        ("", "argument --num_workers: invalid whole number value: ''"),
    ],
)
def test_wrong_numbers_are_refused_with_the_flag(capsys, text, message):
    with pytest.raises(SystemExit) as caught:
        cli.make_parser("A program.").parse_args([f"--num_workers={text}"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_unknown_dataset_lists_the_known(capsys):
    parser = cli.make_parser("A program.")
    add_dataset_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--dataset", "imagenet"])
    error = capsys.readouterr().err
    assert all(name in error for name in ("voc", "folder", "demo"))


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


def test_mistake_in_the_input_ends_as_a_sentence_and_status_2(caplog):
    with pytest.raises(SystemExit) as caught:
        run(failing(InputError("There is no picture a.jpg.")))
    assert caught.value.code == 2
    assert [record.getMessage() for record in caplog.records] == [
        "error: There is no picture a.jpg."
    ]
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


def test_interruption_says_how_to_go_on(caplog):
    with pytest.raises(SystemExit) as caught:
        run(failing(KeyboardInterrupt()))
    assert caught.value.code == 130
    assert "the same command continues" in caplog.text


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


# --- files


def test_file_and_its_folders_appear(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    write_atomic(str(path), lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("old", [None, b"old"])
def test_crash_while_writing_leaves_what_was_there(tmp_path, old, error):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        file.write(b"half of the n")
        raise error

    with pytest.raises(type(error)):
        write_atomic(path, write)
    assert (path.read_bytes() if path.exists() else None) == old
    assert len(list(tmp_path.iterdir())) == (old is not None)


def test_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    pid = os.fork()
    if pid == 0:  # the child dies as by kill -9, without any clean-up

        def die(file):
            file.write(b"half")
            file.flush()
            os._exit(9)

        write_atomic(path, die)
    os.waitpid(pid, 0)
    assert path.read_bytes() == b"old"


def test_reader_never_sees_a_half_written_file(tmp_path):
    path, seen = tmp_path / "a.bin", []
    write_atomic(path, lambda file: file.write(b"old"))

    def write(file):
        for byte in b"new":
            file.write(bytes([byte]))
            file.flush()
            seen.append(path.read_bytes())

    write_atomic(path, write)
    assert seen == [b"old"] * 3
    assert path.read_bytes() == b"new"


def test_full_disk_is_a_sentence(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"a\.bin could not be written: No space left on device"):
        write_atomic(tmp_path / "a.bin", write)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for path in (tmp_path / "taken" / "a.bin", tmp_path / "taken" / "b" / "a.bin"):
        with pytest.raises(InputError, match=r"taken.*a\.bin could not be written"):
            write_atomic(path, lambda file: file.write(b""))
    with pytest.raises(InputError, match="could not be written"):
        write_atomic(tmp_path / ("x" * 250), lambda file: file.write(b""))
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder could not be written"):
        write_atomic(tmp_path / "folder", lambda file: file.write(b""))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "taken"]


def test_json_roundtrip(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"name": "rød"}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["b", "a"]


def test_value_that_is_no_json_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"bad": {1, 2}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_time_is_not_taken_from_the_wall(monkeypatch, messages):
    """A clock that is set back must not stop the lines."""
    monkeypatch.setattr(time, "time", lambda: -1e9)
    list(progress(range(2), 2, "work"))
    assert messages()[-1].startswith("work: 2/2")


@pytest.mark.parametrize("text", ["0", "1", "-0.5", "much"])
def test_trust_of_the_crf_is_a_share(text, capsys):
    parser = cli.make_parser("doc")
    cli.add_crf_flags(parser)
    assert parser.parse_args(["--gt_prob", "0.9"]).gt_prob == 0.9
    with pytest.raises(SystemExit):
        parser.parse_args(["--gt_prob", text])
    assert "--gt_prob" in capsys.readouterr().err
