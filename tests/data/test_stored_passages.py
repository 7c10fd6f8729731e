"""Passages on disk read like a dictionary in memory, need little memory, and leave nothing behind."""

import subprocess
import sys

import pytest

from drdecr.data.passages import BATCH, PassageStore


def numbered(count: int):
    return ((f"file-{index % 2}", index + 1, str(index), f"text of {index} ☃") for index in range(count))


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 5])
def test_stored_passages_are_the_dictionary_of_their_rows(count: int):
    stored = PassageStore(numbered(count), "rows")
    expected = {document_id: text for _, _, document_id, text in numbered(count)}
    assert len(stored) == count
    assert list(stored) == list(expected)
    assert list(stored.values()) == list(expected.values())
    assert stored == expected
    assert stored[str(count - 1)] == expected[str(count - 1)]
    assert "-1" not in stored
    with pytest.raises(KeyError):
        stored["-1"]


def test_blank_passages_are_left_out_by_id_and_others_keep_their_text():
    rows = [("x", 1, "a", " "), ("x", 2, "b", "text"), ("x", 3, "c", "")]
    stored = PassageStore(rows, "rows")
    assert (dict(stored), stored.blank_ids) == ({"b": "text"}, {"a", "c"})
    for again in ("a", "b"):
        with pytest.raises(ValueError, match=f"x, line 4: document_id '{again}' stands twice"):
            PassageStore([*rows, ("x", 4, again, "text")], "rows")
    with pytest.raises(ValueError, match="rows: expected passages with text, got none"):
        PassageStore(rows[:1], "rows")


def test_nothing_is_left_on_disk_while_they_are_read_and_after_an_error(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stored = PassageStore(numbered(2 * BATCH), "rows")
    assert stored["0"] == "text of 0 ☃"
    assert not list(tmp_path.iterdir())

    def broken():
        yield from numbered(2 * BATCH)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        PassageStore(broken(), "rows")
    assert not list(tmp_path.iterdir())


def test_memory_holds_ids_and_not_texts():
    """60,000 passages of 2 kB are 120 MB, and their ids less than 10 MB."""
    code = """
import resource
from drdecr.data.passages import PassageStore
PassageStore([("x", 1, "a", "b")], "x")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stored = PassageStore((("x", n, str(n), f"{n:010d}" * 200) for n in range(60_000)), "x")
assert stored["59999"] == "0000059999" * 200
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 60
