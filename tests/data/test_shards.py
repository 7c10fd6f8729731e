"""Shards: whatever kills a call and however many processes share it, the same bytes; damage is called by its file."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drdecr.data import shards
from drdecr.data.files import SUMS
from drdecr.data.shards import (
    PLAN,
    is_complete,
    map_in_shards,
    open_shards,
    read_shards,
    sum_counts,
    unfinished_work,
    with_counts,
)

FACTS = {"model": "m", "kept_in": "float32"}


def squares(rows: range) -> dict[str, torch.Tensor]:
    return {"squares": torch.tensor([float(row) ** 2 for row in rows])}


def table(rows: range) -> pa.Table:
    return with_counts(pa.table({"row": list(rows)}), {"read": len(rows), "odd": sum(row % 2 for row in rows)})


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    map_in_shards(10, squares, tmp_path / "whole", FACTS, 4)
    return tmp_path / "whole"


def test_rows_come_back_in_order(folder, tmp_path):
    facts, tensors = open_shards(folder)
    assert facts == FACTS
    assert [len(shard["squares"]) for shard in tensors] == [4, 4, 2]
    assert torch.cat([shard["squares"] for shard in tensors]).tolist() == [row**2 for row in range(10)]
    files = map_in_shards(10, table, tmp_path / "rows", FACTS, 3)
    assert read_shards(files)["row"][:] == list(range(10))
    assert sum_counts(files) == {"read": 10, "odd": 5}


def test_processes_share_the_shards_and_make_the_same_bytes(folder, tmp_path, monkeypatch):
    starts: list[list[int]] = [[], []]
    for process in (1, 0):

        def noting(rows: range, process: int = process) -> dict[str, torch.Tensor]:
            starts[process].append(rows.start)
            return squares(rows)

        state = SimpleNamespace(
            process_index=process, num_processes=2, is_main_process=process == 0, wait_for_everyone=lambda: None
        )
        monkeypatch.setattr(shards, "PartialState", lambda state=state: state)
        map_in_shards(10, noting, tmp_path / "shared", FACTS, 4)
    assert starts == [[0, 8], [4]]
    assert bytes_of(tmp_path / "shared") == bytes_of(folder)


def die_at_step(countdown: int) -> None:
    """Kill this process at its `countdown`-th step of writing: before a file is whole, or just after it has its name."""
    fsync, replace, left = os.fsync, Path.replace, [countdown]

    def count() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(descriptor: int) -> None:
        count()
        fsync(descriptor)

    def dying_replace(self: Path, target: Path) -> Path:
        renamed = replace(self, target)
        count()
        return renamed

    os.fsync, Path.replace = dying_fsync, dying_replace  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("function", [table, squares])
def test_a_call_killed_at_each_step_of_writing_leaves_the_bytes_of_an_undisturbed_one(function: Callable, tmp_path):
    """Plan, three shards and the checksums are five files of two steps each."""
    map_in_shards(10, function, tmp_path / "whole", FACTS, 4)
    for countdown in range(1, 11):
        killed = tmp_path / f"killed-{countdown}"
        child = os.fork()
        if child == 0:
            die_at_step(countdown)
            map_in_shards(10, function, killed, FACTS, 4)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        before = {file: file.stat().st_mtime_ns for file in killed.glob("0*")}
        map_in_shards(10, function, killed, FACTS, 4)
        assert {file: file.stat().st_mtime_ns for file in before} == before  # what is there is not made again
        assert bytes_of(killed) == bytes_of(tmp_path / "whole")
        assert not list(killed.glob(".*.unfinished"))


def test_a_complete_folder_is_not_made_again(folder):
    assert len(map_in_shards(10, lambda _: pytest.fail("made again"), folder, FACTS, 4)) == 3


@pytest.mark.parametrize("place", [3, 60, -40, -1])
def test_every_flipped_bit_is_found_and_named(folder, place):
    file = folder / "00001-of-00003.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"00001-of-00003.safetensors: this shard is not as it was written"):
        open_shards(folder)
    assert subprocess.run(["sha256sum", "--status", "-c", SUMS], cwd=folder).returncode == 1
    (folder / SUMS).unlink()  # the cure of the message
    file.unlink()
    map_in_shards(10, squares, folder, FACTS, 4)
    assert open_shards(folder)[1][1]["squares"].tolist() == [16, 25, 36, 49]


def test_a_shard_that_is_cut_off_or_missing_is_named(folder):
    file = folder / "00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    for check in (True, False):
        with pytest.raises(ValueError, match=r"00002-of-00003.safetensors: this shard is not as it was written"):
            open_shards(folder, check)
    file.unlink()
    with pytest.raises(ValueError, match=r"00002-of-00003.safetensors: this shard is missing"):
        open_shards(folder)


def test_another_plan_is_refused(folder, tmp_path):
    for facts, rows, size, name in (
        ({**FACTS, "model": "n"}, 10, 4, "model"),
        (FACTS, 9, 4, "rows"),
        (FACTS, 10, 5, "rows_per_shard"),
    ):
        with pytest.raises(
            ValueError, match=rf"was begun with something else \(what differs: {name}\). Choose another"
        ):
            map_in_shards(rows, squares, folder, facts, size)
    with pytest.raises(ValueError, match="expected rows, and at least one a shard, got 0 rows"):
        map_in_shards(0, squares, folder, FACTS, 4)
    with pytest.raises(ValueError, match="expected a complete folder of shards"):
        open_shards(tmp_path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="got files of another kind"):
        map_in_shards(10, squares, tmp_path / "letters", FACTS, 4)


def test_a_second_call_is_kept_out_of_unfinished_work_and_deletes_nothing(tmp_path):
    with unfinished_work(tmp_path / "set", {"depth": 1}) as work:
        with (
            pytest.raises(ValueError, match=r"set\.parts: another call is at work there"),
            unfinished_work(tmp_path / "set", {"depth": 1}),
        ):
            pytest.fail("it was let in")
        assert (work / PLAN).exists()
    assert not work.exists()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_a_failure_leaves_shards_and_nothing_else(error, tmp_path):
    def fail(has_shards: bool) -> None:
        with unfinished_work(tmp_path / "set", {"has_shards": has_shards}) as work:
            if has_shards:
                map_in_shards(3, table, work / "rows", {})
            raise error

    for has_shards in (False, True):
        with pytest.raises(error):
            fail(has_shards)
        assert (tmp_path / "set.parts").exists() == has_shards
    with pytest.raises(ValueError, match=r"begun with something else \(what differs: has_shards\)"):
        fail(False)
    assert pq.read_table(tmp_path / "set.parts" / "rows" / "00000-of-00001.parquet")["row"].to_pylist() == [0, 1, 2]
    assert is_complete(tmp_path / "set.parts" / "rows")
