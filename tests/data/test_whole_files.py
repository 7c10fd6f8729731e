"""Files are whole or not there; checksums name what is damaged; nobody takes away what another is writing."""

import os
import socket
import subprocess
import sys

import pytest

from drdecr.data.files import SUMS, check_sums, clear_unfinished, whole_file, write_atomically, write_sums


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.json"
    write_atomically(file, b"old")

    def fail() -> None:
        with whole_file(file) as unfinished:
            unfinished.write_bytes(b"ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert file.read_bytes() == b"old"


def test_another_processs_unfinished_file_stays_while_it_lives(tmp_path):
    host = socket.gethostname()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        process: tmp_path / f".a.{process}.unfinished"
        for process in (f"{host}-{living.pid}", f"{host}-{dead.pid}", f"{host}-{os.getpid()}", "elsewhere-1", "old-2")
    }
    for file in names.values():
        file.write_bytes(b"half")
    os.utime(names["old-2"], (0, 0))
    clear_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f".a.{host}-{living.pid}.unfinished",
        ".a.elsewhere-1.unfinished",
    }
    living.communicate(b"\n")
    clear_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".a.elsewhere-1.unfinished"]


def test_checksums_name_the_first_wrong_shard(tmp_path):
    for name in ("a/1.parquet", "b/2.parquet", "b/3.safetensors", "b/4.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    assert subprocess.run(["sha256sum", "--status", "-c", SUMS], cwd=tmp_path).returncode == 0
    assert check_sums(tmp_path) == 3
    (tmp_path / "b" / "2.parquet").write_text("b/2.parqueT")
    assert check_sums(tmp_path, below="a/") == 1
    with pytest.raises(ValueError, match=r"b/2.parquet: this shard is not as it was written, .* Copy it"):
        check_sums(tmp_path, cure="Copy it again.")
    (tmp_path / "a" / "1.parquet").unlink()
    with pytest.raises(ValueError, match=r"a/1.parquet: this shard is missing"):
        check_sums(tmp_path)
