"""The one reader: what broken, foreign and strange files end as, and whose mistakes it hides."""

import os

import numpy as np
import pytest

from tool.errors import InputError
from tool.reader import (
    Between,
    Damaged,
    check,
    decoding,
    file_digest,
    read_arrays,
    read_bytes,
    read_json,
    read_lines,
    read_table,
    read_text,
    text_digest,
)

REMEDY = "Make it again."


def message_of(path, read, *arguments):
    with pytest.raises(InputError) as error:
        read(path, *arguments)
    assert str(path) in str(error.value)
    return str(error.value)


def test_what_is_no_file_is_named_at_once(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("nowhere")
    for path, word in ((pipe, "pipe"), (tmp_path, "folder"), (link, "nowhere")):
        assert word in message_of(path, read_bytes)
    assert "no file" in message_of(tmp_path / "missing", read_bytes)
    message_of("/dev/zero", read_bytes)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
        (b"\x1f\x8b\x08", "gzip"),
        (b" <!DOCTYPE html><html>", "web page"),
        (bytes(257) + b"ustar", "tar"),
        (b"a\0b", "zero bytes"),
        (b"Z\xfcrich\n", "0xfc"),
    ],
)
def test_stand_ins_and_other_encodings_are_named(tmp_path, content, word):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert word in message_of(path, read_text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read(tmp_path, encoding):
    path = tmp_path / "file"
    path.write_bytes("# remark\n ä b \r\n\nc".encode(encoding))
    assert read_lines(path) == ["ä b", "c"]


def test_files_are_bounded(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(11))
    assert len(read_bytes(path, 11)) == 11
    assert "10" in message_of(path, read_bytes, 10)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", '{"a": ' + "9" * 5000 + "}"])
def test_what_is_no_json_object_is_damaged(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert REMEDY in message_of(path, read_json, REMEDY)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (int, [0, 2**53], [True, 1.0, 2**53 + 1, "1"]),
        (float, [0, 1.5], [True, float("nan"), float("inf"), 10**400, "1"]),
        (Between(0, 1), [0, 1], [-0.1, 2, float("nan"), None]),
        ({"a", "b"}, ["a"], ["c", None, ["a"], {}]),
        ([int], [[], [1, 2]], [1, [1, "2"], {"0": 1}]),
        ((int, str), [[1, "a"]], [[1], [1, "a", 2], ["a", 1]]),
        ({str: int}, [{}, {"a": 1}], [{"a": "1"}, []]),
        ({"a": int, "b?": str}, [{"a": 1}, {"a": 1, "b": None, "c": []}], [{}, {"a": 1, "b": 2}]),
    ],
)
def test_schemas(schema, good, bad):
    for value in good:
        check(value, schema)
    for value in bad:
        with pytest.raises(Damaged):
            check(value, schema)


def test_a_message_says_where_and_what():
    with pytest.raises(Damaged, match=r"content: a\[1\]: b is 'x', not a whole number"):
        check({"a": [{"b": 1}, {"b": "x"}]}, {"a": [{"b": int}]})


def test_every_cut_of_arrays_is_damaged(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, other=np.array([{}], object), keys=np.arange(3), maps=np.zeros((3, 5)))
    assert set(read_arrays(path, REMEDY, ("keys", "maps", "more"))) == {"keys", "maps"}
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        message_of(path, read_arrays, REMEDY, ("keys", "maps"))


def test_tables_need_their_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n1,0.5\n2\n")
    assert read_table(path, REMEDY, ("step",)) == [
        {"step": "1", "loss": "0.5"},
        {"step": "2", "loss": ""},
    ]
    assert "miou" in message_of(path, read_table, REMEDY, ("miou",))


def test_mistakes_of_this_project_keep_their_traceback():
    with pytest.raises(TypeError), decoding("file", REMEDY):
        len(5)
    with pytest.raises(AttributeError), decoding("file", REMEDY):
        None.read()
    for error in (ValueError("wrong"), MemoryError()):
        with pytest.raises(InputError, match="file"), decoding("file", REMEDY):
            raise error


def test_digests_are_those_of_content_and_order(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"a" * (1 << 21))
    other.write_bytes(b"a" * (1 << 21))
    assert file_digest(one) == file_digest(other)
    assert len(file_digest(one)) == 32
    assert len({text_digest("ab", "c"), text_digest("a", "bc"), text_digest("abc")}) == 3
