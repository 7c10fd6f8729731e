"""An index whose writer is killed, whose files are damaged, or that is read while it is written."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time

import pytest
import torch

from drdecr.retrieval import DamagedIndexError, StoredIndex

ROUNDS = 12
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its writers")


def tokens_of(commit: int, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(commit * 100 + number)
    return torch.nn.functional.normalize(torch.randn(3 + number % 4, 8, generator=generator), dim=-1)


def contents(commits: int) -> dict[str, int]:
    """Return `{passage id: commit that wrote it last}` after some commits of `step`."""
    held: dict[str, int] = {}
    for commit in range(1, commits + 1):
        held.update({f"p{(commit * 3 + number) % 17}": commit for number in range(6)})
        held.pop(f"p{commit % 17}", None)
    return held


def step(index: StoredIndex, commit: int) -> None:
    ids = [f"p{(commit * 3 + number) % 17}" for number in range(6)]
    payloads = [{"commit": commit, "number": number} for number in range(6)]
    index.add(ids, [tokens_of(commit, number) for number in range(6)], payloads)
    index.delete([f"p{commit % 17}"])
    if commit % 5 == 0:
        index.compact()
    else:
        index.commit()


def check(index: StoredIndex, commits: int) -> None:
    held = contents(commits)
    assert sorted(index.passage_ids()) == sorted(held)
    for name, payload in zip(held, index.payloads(list(held)), strict=True):
        assert payload["commit"] == held[name]
        truth = tokens_of(payload["commit"], payload["number"]).half().float()
        torch.testing.assert_close(index.embeddings([name])[0], truth)


def write_on(folder, start, pipe) -> None:
    torch.set_num_threads(1)
    index = StoredIndex.open(folder, writable=True)
    for commit in range(start, 10_000):
        step(index, commit)
        pipe.send(commit)


@needs_fork
@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_a_killed_writer_leaves_its_last_commit_and_the_next_one_goes_on(tmp_path, codec):
    context, chance = multiprocessing.get_context("fork"), random.Random(0)
    StoredIndex.create(tmp_path / "index", dim=8, codec=codec).close()
    done = 0
    for _ in range(ROUNDS):
        receiving, sending = context.Pipe(duplex=False)
        writer = context.Process(target=write_on, args=(tmp_path / "index", done + 1, sending))
        writer.start()
        sending.close()
        told = receiving.recv()
        time.sleep(chance.random() * 0.05)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        while True:  # what it told before it died
            try:
                told = receiving.recv()
            except EOFError:
                break
        reader = StoredIndex.open(tmp_path / "index")
        with_payload = [payload["commit"] for payload in reader.payloads(reader.passage_ids())]
        done = max(with_payload)
        assert done in (told, told + 1)  # a commit may be whole and not told yet
        if codec == "float16":
            check(reader, done)
    with StoredIndex.open(tmp_path / "index", writable=True) as index:
        kept = {record.name for record in index.manifest.segments}
        assert {path.name for path in (tmp_path / "index" / "segments").iterdir()} == kept  # nothing is left over


@needs_fork
def test_a_writer_may_die_at_every_single_step_of_a_commit(tmp_path):
    """Each rename and each sync is the last thing that some writer does; no state in between is ever seen."""
    with StoredIndex.create(tmp_path / "start", dim=8) as index:
        step(index, 1)
    states = set()
    for last in range(40):
        folder = tmp_path / f"at{last}"
        shutil.copytree(tmp_path / "start", folder)
        process = os.fork()
        if process == 0:
            _die_after(last)
            try:
                step(StoredIndex.open(folder, writable=True), 2)
            finally:
                os._exit(0)
        _, status = os.waitpid(process, 0)
        reader = StoredIndex.open(folder)
        check(reader, reader.manifest.commit)
        states.add((reader.manifest.commit, os.waitstatus_to_exitcode(status)))
        if os.waitstatus_to_exitcode(status) == 0:
            break
    # Died before the manifest's rename; died after it; went to the end.
    assert states == {(1, 9), (2, 9), (2, 0)}


def _die_after(calls: int) -> None:
    left = [calls]

    def dying(function):
        def call(*arguments, **options):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return function(*arguments, **options)

        return call

    for name in ("replace", "rename", "fsync", "unlink"):
        setattr(os, name, dying(getattr(os, name)))


def test_a_full_disk_leaves_the_last_commit_and_the_changes_waiting(tmp_path, monkeypatch):
    with StoredIndex.create(tmp_path / "index", dim=8) as index:
        step(index, 1)
        index.add(["new"], [tokens_of(9, 1)])

        def full(*arguments):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                index.commit()
        check(StoredIndex.open(tmp_path / "index"), 1)
        index.commit()
        assert "new" in StoredIndex.open(tmp_path / "index").passage_ids()


@pytest.fixture
def whole(tmp_path):
    with StoredIndex.create(tmp_path / "whole", dim=8, codec="residual4") as index:
        step(index, 1)
        step(index, 2)
    return tmp_path / "whole"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "write.lock")


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "remove"])
def test_every_damaged_file_is_found_and_named(whole, tmp_path, how):
    assert len(files_of(whole)) > 10
    for number, path in enumerate(files_of(whole)):
        copy = tmp_path / f"{how}{number}"
        shutil.copytree(whole, copy)
        victim = copy / path.relative_to(whole)
        data = bytearray(victim.read_bytes())
        if how == "remove":
            victim.unlink()
        else:
            data[len(data) // 2] ^= 16
            victim.write_bytes(data if how == "flip" else b"" if how == "empty" else data[: len(data) // 2])
        with pytest.raises((DamagedIndexError, FileNotFoundError)) as error:
            StoredIndex.open(copy)
        assert victim.name in str(error.value)
        assert isinstance(error.value, DamagedIndexError) or victim.name == "manifest.json"


def test_sizes_are_compared_even_without_verification(whole):
    victim = next((whole / "segments").rglob("codes.npy"))
    data = victim.read_bytes()
    victim.write_bytes(data[:-1])
    with pytest.raises(DamagedIndexError, match=r"codes\.npy: expected \d+ bytes, got"):
        StoredIndex.open(whole, verify=False)
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    StoredIndex.open(whole, verify=False)


def test_an_index_of_another_version_is_no_damaged_one(whole):
    import json

    from drdecr.retrieval.stored.manifest import _digest_of

    content = json.loads((whole / "manifest.json").read_text())
    content.pop("sha256")
    content["version"] = 2
    (whole / "manifest.json").write_text(json.dumps({**content, "sha256": _digest_of(content)}))
    with pytest.raises(ValueError, match="expected format version 1, got 2"):
        StoredIndex.open(whole)


def test_readers_during_writes_see_one_commit_each(tmp_path):
    with StoredIndex.create(tmp_path / "index", dim=8) as index:
        step(index, 1)
        ended, problems, seen = threading.Event(), [], set()

        def read() -> None:
            try:
                while not ended.is_set():
                    reader = StoredIndex.open(tmp_path / "index")
                    newest = max(payload["commit"] for payload in reader.payloads(reader.passage_ids()))
                    check(reader, newest)
                    seen.add(newest)
            except BaseException as error:  # noqa: BLE001 - told to the test
                problems.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for commit in range(2, 30):
            step(index, commit)
        ended.set()
        for reader in readers:
            reader.join()
    assert not problems, problems[0]
    assert len(seen) > 1
