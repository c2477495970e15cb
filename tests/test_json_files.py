"""JSON from anyone ends in a value or a ValueError, and never in a wait."""

import os

import pytest

from medgan_tf import json_files, sealed

DEEP = "[" * 200_000


def test_what_a_file_holds_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"place": "Köln", "size": [1, 2.5]}')
    assert json_files.read(tmp_path / "a.json") == {
        "place": "Köln",
        "size": [1, 2.5],
    }


@pytest.mark.parametrize("loads", [json_files.loads, sealed.loads])
def test_a_text_that_is_nested_too_deeply_is_refused(loads):
    with pytest.raises(ValueError, match="too deeply"):
        loads(DEEP)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x80{}"])
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError):
        json_files.read(tmp_path / "a.json")


def test_nobody_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="no regular file"):
        json_files.read(tmp_path / "a.json")


def test_a_file_that_is_missing_and_a_folder_are_told(tmp_path):
    for path in (tmp_path, tmp_path / "gone.json"):
        with pytest.raises(OSError):
            json_files.read(path)
