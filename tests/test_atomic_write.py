"""Checks that a file is written whole or not at all."""

import os
import stat
import threading

import pytest

from recu_jax.atomic_write import atomic_write


def test_the_file_takes_the_place_of_the_old_one_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_leaves_what_there_was(tmp_path):
    path = tmp_path / "a.txt"
    for before in (None, "old"):
        if before:
            path.write_text(before)
        with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
            file.write(b"half")
            raise ZeroDivisionError
        assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "a.txt"):
        pass


def test_a_pipe_stays_a_pipe(tmp_path):
    """The same code keeps a device a device. Otherwise root could replace /dev/null by a file."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with atomic_write(pipe) as file:
        file.write(b"new")
    reader.join()
    assert read == [b"new"] and stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]
