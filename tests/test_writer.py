"""The one writer: whole files, nobody else's replaced, and names that stay in their folder."""

import errno
import fcntl
import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest

from tool import writer
from tool.errors import InputError
from tool.writer import claim, own_folder, read_note, write_json, write_own, write_table


def write(path, content=b"new"):
    write_own(path, lambda file: file.write(content))


def test_our_own_file_is_replaced_and_knows_its_content(tmp_path):
    path = tmp_path / "folder" / "a.json"
    write(path)
    write(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("content", [b"theirs", b"", b"new and edited"])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path, content):
    path = tmp_path / "README.md"
    if content.startswith(b"new"):
        write(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"README\.md"):
        write(path)
    assert path.read_bytes() == content
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_link_of_somebody_else_stays(tmp_path):
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(InputError):
        write(tmp_path / "a")


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
        own_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.PNG"]


def test_an_empty_folder_may_become_ours_and_leftovers_go(tmp_path):
    assert own_folder(tmp_path / "new") == {}
    write_json(tmp_path / writer.NOTE, {"program": "make_cam"})
    (tmp_path / ".a.png.123.tmp").write_bytes(b"half")
    assert own_folder(tmp_path)["program"] == "make_cam"
    assert not list(tmp_path.glob(".*.tmp"))
    (tmp_path / writer.NOTE).write_text("{}")
    with pytest.raises(InputError, match=r"settings\.json"):
        read_note(tmp_path)


def test_tables_execute_nothing(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, [["id", "share"], ["=HYPERLINK(1)", -0.5], ["cat, dog", 1]])
    assert path.read_text().splitlines() == ["id,share", "'=HYPERLINK(1),-0.5", '"cat, dog",1']


def _try(path, queue):
    try:
        claim(path, "writing")
        queue.put("claimed")
    except InputError as error:
        queue.put(str(error))


def test_a_claim_holds_for_other_processes_until_it_is_closed(tmp_path):
    context, path = multiprocessing.get_context("spawn"), tmp_path / "lock"
    queue, lock = context.Queue(), claim(path, "writing")
    for expected in ("Another process is writing", "claimed"):
        process = context.Process(target=_try, args=(path, queue))
        process.start()
        assert expected in queue.get(timeout=60)
        process.join()
        lock.close()


def test_without_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    claim(tmp_path / "lock", "writing").close()
    assert "no locks" in caplog.text
