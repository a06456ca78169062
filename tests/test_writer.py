"""The one writer: whole files, nobody else's replaced, and names that stay in their folder."""

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from tool import writer
from tool.errors import InputError
from tool.writer import (
    claim,
    clear_unfinished,
    link,
    own_folder,
    read_note,
    write_atomic,
    write_json,
    write_own,
    write_table,
)


def write(path, content=b"new"):
    write_own(path, lambda file: file.write(content))


def test_our_own_file_is_replaced_and_knows_its_content(tmp_path):
    path = tmp_path / "folder" / "a.json"
    write(path)
    write(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("content", [b"theirs", b"", b"new and edited"])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path, content):
    path, link = tmp_path / "README.md", tmp_path / "link.md"
    if content.startswith(b"new"):
        write(path)
    path.write_bytes(content)
    link.symlink_to("nowhere")
    for place in (path, link):
        with pytest.raises(InputError, match=place.name):
            write(place)
    assert path.read_bytes() == content
    assert link.is_symlink()
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_copied_folder_is_still_ours(tmp_path):
    write(tmp_path / "one" / "a")
    other = tmp_path / "other"
    other.mkdir()
    for file in (tmp_path / "one").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    write(other / "a", b"newer")


def test_killed_between_note_and_rename_the_old_file_is_still_ours(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write(path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(path, b"newer")
    write(path, b"newest")
    assert path.read_bytes() == b"newest"


def test_files_written_at_once_are_all_noted(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, [tmp_path / str(i) for i in range(32)]))
    assert len(json.loads((tmp_path / writer.LEDGER).read_text())) == 32


def test_a_folder_of_somebody_else_is_refused_and_stays(tmp_path):
    (tmp_path / "a.PNG").write_bytes(b"theirs")
    with pytest.raises(InputError, match=r"a\.PNG"):
        own_folder(tmp_path, "make_cam")
    assert [path.name for path in tmp_path.iterdir()] == ["a.PNG"]


def test_an_empty_folder_may_become_ours_and_leftovers_go(tmp_path):
    assert own_folder(tmp_path / "new", "make_cam")[0] == read_note(tmp_path / "new")
    write_json(tmp_path / writer.NOTE, {"program": "make_cam"})
    ended = subprocess.Popen(["true"])
    ended.wait()
    for process in (ended.pid, os.getpid()):
        (tmp_path / f".a.png.{process}.tmp").write_bytes(b"half")
    assert own_folder(tmp_path, "make_cam")[0]["program"] == "make_cam"
    # What a process that still runs is writing stays.
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [f".a.png.{os.getpid()}.tmp"]
    (tmp_path / writer.NOTE).write_text("{}")
    with pytest.raises(InputError, match=r"settings\.json"):
        read_note(tmp_path)


def test_tables_execute_nothing(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, [["id", "share"], ["=HYPERLINK(1)", -0.5], ["cat, dog", 1]])
    assert path.read_text().splitlines() == ["id,share", "'=HYPERLINK(1),-0.5", '"cat, dog",1']


def _try(folder, queue):
    try:
        own_folder(folder, "make_cam")
        queue.put("claimed")
    except InputError as error:
        queue.put(str(error))


def test_a_claim_holds_for_other_processes_until_it_is_closed(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue, (_, lock) = context.Queue(), own_folder(tmp_path, "make_cam")
    for expected in ("Another process is writing", "claimed"):
        process = context.Process(target=_try, args=(tmp_path, queue))
        process.start()
        assert expected in queue.get(timeout=60)
        process.join()
        lock.close()


LOCKLESS = ("ENOLCK", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EINVAL", "EIO")


@pytest.mark.parametrize("name", [*LOCKLESS, "Windows"])
def test_without_locks_a_warning_says_so(name, tmp_path, monkeypatch, caplog):
    if name == "Windows":
        monkeypatch.setattr(writer, "fcntl", None)
    else:
        error = OSError(getattr(errno, name), "No locks available")
        for function in ("lockf", "flock"):
            monkeypatch.setattr(fcntl, function, Mock(side_effect=error))
    claim(tmp_path / "lock", "writing").close()
    assert "no locks" in caplog.text
    write_own(tmp_path / "a.txt", lambda file: file.write(b"a"))
    assert (tmp_path / "a.txt").read_bytes() == b"a"


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP", "ENOSYS", "WinError 1314"])
def test_without_links_there_are_copies(name, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.png").write_bytes(b"a")
    error = OSError(getattr(errno, name, errno.EINVAL), "no links")
    for copied in (False, True):
        if copied:
            monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=error))
        out = tmp_path / f"out{copied}"
        link(tmp_path / "folder", out / "folder")
        link(tmp_path / "folder/a.png", out / "b.png")
        assert (out / "folder/a.png").read_bytes() == (out / "b.png").read_bytes() == b"a"
        assert {path.is_symlink() for path in out.iterdir()} == {not copied}
        assert len(list(out.iterdir())) == 2


def test_no_process_is_looked_for_where_that_ends_it(tmp_path, monkeypatch):
    (tmp_path / ".a.1.tmp").write_bytes(b"")
    monkeypatch.setattr(os, "kill", Mock(side_effect=AssertionError))
    monkeypatch.setattr(sys, "platform", "win32")
    clear_unfinished(tmp_path)
    assert (tmp_path / ".a.1.tmp").exists()


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(28, "full")])
@pytest.mark.parametrize("old", [None, b"old"])
def test_what_ends_within_writing_leaves_what_was_there(tmp_path, old, error):
    """A reader sees nothing of the new file before it is whole."""
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        file.write(b"half of the n")
        file.flush()
        assert (path.read_bytes() if path.exists() else None) == old
        raise error

    with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
        write_atomic(path, write)
    assert (path.read_bytes() if path.exists() else None) == old
    assert len(list(tmp_path.iterdir())) == (old is not None)


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "new/folder/a.bin"
    write_atomic(str(path), lambda file: file.write(b"old"))
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    pid = os.fork()
    if pid == 0:  # the child dies as by kill -9, without any clean-up
        write_atomic(path, lambda file: file.write(b"half") and os._exit(9))
    os.waitpid(pid, 0)
    assert path.read_bytes() == b"old"


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder").mkdir()
    for name in ("taken/a.bin", "taken/b/a.bin", "x" * 250, "folder"):
        with pytest.raises(InputError, match=f"{name} could not be written"):
            write_atomic(tmp_path / name, lambda file: file.write(b""))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "taken"]


def test_json_keeps_order_and_letters_and_the_old_file_where_a_value_is_none(tmp_path):
    path, value = tmp_path / "a.json", {"b": [1, 2.5, None], "a": {"name": "rød"}}
    write_json(path, {**value, "b": [1, 2.5, float("nan")]})
    with pytest.raises(TypeError):
        write_json(path, {"bad": {1, 2}})
    content = json.loads(path.read_text())
    assert list(content) == ["b", "a"]
    assert content == value
