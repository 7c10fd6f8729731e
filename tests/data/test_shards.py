"""Shards: made in any order and by any number of processes they are the same bytes, and damage is called by its file."""

import hashlib
import os
import socket
import subprocess

import pytest
import torch

from drdecr.data.files import SUMS, text_key
from drdecr.data.shards import ShardFolder, is_complete, open_shards

KEYS = [text_key(str(number)) for number in range(10)]
FACTS = {"model": "m", "kept_in": "float32"}


def squares(rows: range) -> dict[str, torch.Tensor]:
    return {"squares": torch.tensor([float(row) ** 2 for row in rows])}


def bytes_of(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def made(tmp_path):
    making = ShardFolder(tmp_path / "made", FACTS, KEYS, rows_a_shard=4)
    making.make(squares)
    making.finish()
    return tmp_path / "made"


def test_rows_come_back_in_order_with_their_keys(made):
    facts, shards = open_shards(made)
    assert facts == FACTS
    assert [len(shard["squares"]) for shard in shards] == [4, 4, 2]
    assert torch.cat([shard["squares"] for shard in shards]).tolist() == [row**2 for row in range(10)]
    assert b"".join(shard["keys"].numpy().tobytes() for shard in shards) == b"".join(KEYS)


def test_processes_and_resumed_calls_make_the_same_bytes(made, tmp_path):
    shared = tmp_path / "shared"
    for process in (1, 0):
        ShardFolder(shared, FACTS, KEYS, rows_a_shard=4).make(squares, process, processes=2)
    ShardFolder(shared, FACTS, KEYS, rows_a_shard=4).finish()
    assert bytes_of(shared) == bytes_of(made)

    killed, computed = tmp_path / "killed", []

    def dying(rows: range) -> dict[str, torch.Tensor]:
        computed.append(rows.start)
        if len(computed) in (2, 3):
            raise KeyboardInterrupt
        return squares(rows)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ShardFolder(killed, FACTS, KEYS, rows_a_shard=4).make(dying)
        (killed / f".00001-of-00003.safetensors.{socket.gethostname()}-{os.getpid()}.unfinished").write_bytes(b"half")
    making = ShardFolder(killed, FACTS, KEYS, rows_a_shard=4)
    with pytest.raises(ValueError, match=r"00001-of-00003.safetensors: this shard is not made yet"):
        making.finish()
    making.make(dying)
    making.finish()
    assert computed == [0, 4, 4, 4, 8]  # what was there is not made again
    assert bytes_of(killed) == bytes_of(made)


def test_a_shard_without_its_checksum_is_made_again(made, tmp_path):
    before = bytes_of(made)
    for name in (SUMS, "00001-of-00003.safetensors.sha256"):  # killed between the two writes
        (made / name).unlink()
    making = ShardFolder(made, FACTS, KEYS, rows_a_shard=4)
    making.make(squares)
    making.finish()
    assert bytes_of(made) == before


@pytest.mark.parametrize("place", [3, 60, -40, -1])
def test_every_flipped_bit_is_found_and_named(made, place):
    file = made / "00001-of-00003.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"00001-of-00003.safetensors: this shard is not as it was written"):
        open_shards(made)
    assert subprocess.run(["sha256sum", "--status", "-c", SUMS], cwd=made).returncode == 1
    (made / SUMS).unlink()  # the cure of the message
    file.unlink()
    making = ShardFolder(made, FACTS, KEYS, rows_a_shard=4)
    making.make(squares)
    making.finish()
    assert open_shards(made)[1][1]["squares"].tolist() == [16, 25, 36, 49]


def test_a_shard_that_is_cut_off_or_missing_is_named(made):
    file = made / "00002-of-00003.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    for check in (True, False):
        with pytest.raises(ValueError, match=r"00002-of-00003.safetensors: this shard is not as it was written"):
            open_shards(made, check)
    file.unlink()
    with pytest.raises(ValueError, match=r"00002-of-00003.safetensors: this shard is missing"):
        open_shards(made)


def test_damage_before_completion_is_found_when_shards_are_merged(tmp_path):
    making = ShardFolder(tmp_path / "a", FACTS, KEYS, rows_a_shard=4)
    making.make(squares)
    file = tmp_path / "a" / "00000-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ValueError, match=r"00000-of-00003.safetensors: this shard is not as it was written"):
        making.finish()
    assert not is_complete(tmp_path / "a")


def test_another_plan_is_refused(made):
    for facts, keys, size in (({**FACTS, "model": "n"}, KEYS, 4), (FACTS, KEYS[:9], 4), (FACTS, KEYS, 5)):
        with pytest.raises(ValueError, match=r"expected shards of .* Choose another folder, or delete it"):
            ShardFolder(made, facts, keys, size)
    with pytest.raises(ValueError, match="expected rows, and at least one a shard, got 0 rows"):
        ShardFolder(made, FACTS, [], 4)
    with pytest.raises(ValueError, match="expected a complete folder of shards"):
        open_shards(made.parent)
