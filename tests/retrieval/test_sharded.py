"""Shards together find what one index finds, lose nothing in a kill that is not said, and refuse what does not fit."""

import json
import random
import shutil
from dataclasses import replace

import pytest
import torch

from drdecr.retrieval import DamagedIndexError, Hits, ShardedIndex, StoredIndex, manifest, shard_manifest
from drdecr.retrieval.shard_manifest import (
    ShardManifest,
    _digest_of,
    collect_shards,
    document_of,
    plan_shards,
    shard_folder,
    shard_of,
)
from drdecr.retrieval.sharded import merge_hits


def names(count):
    return [f"d{number // 2}#{number % 2}" for number in range(count)]


@pytest.fixture
def filled(tmp_path, ragged):
    """60 passages of 30 documents in three shards."""
    payloads = [{"third": number % 3} for number in range(60)]
    with ShardedIndex.create(tmp_path / "shards", 8, 3, about={"model": "m", "model_digest": "d"}) as index:
        index.add(names(60), ragged(60, seed=0, shortest=1), payloads)
        index.commit()
    return tmp_path / "shards"


def test_shards_find_what_one_index_finds(filled, tmp_path, ragged):
    with StoredIndex.create(tmp_path / "one", 8) as one:
        one.add(names(60), ragged(60, seed=0, shortest=1), [{"third": number % 3} for number in range(60)])
        one.commit()
    index, queries = ShardedIndex.open(filled), ragged(9, seed=1, shortest=1)
    assert len(index) == 60
    assert sorted(index.passage_ids()) == sorted(names(60))
    shards = [StoredIndex.open(shard_folder(filled, number)).passage_ids() for number in range(3)]
    assert index.passage_ids() == [name for own in shards for name in own]
    assert all(len(StoredIndex.open(shard_folder(filled, number))) > 5 for number in range(3))
    for top_k, where in ((1, None), (10, None), (100, None), (10, {"third": [0, 2]}), (5, {"third": 7})):
        ours, theirs = index.search(queries, top_k, where), one.search(queries, top_k, where)
        assert ours.document_ids == theirs.document_ids
        for own, other in zip(ours.scores, theirs.scores, strict=True):
            assert own == pytest.approx(other, abs=1e-6)
    chosen = random.Random(0).sample(names(60), 20)
    assert index.payloads(chosen) == one.payloads(chosen)
    for own, other in zip(index.embeddings(chosen), one.embeddings(chosen), strict=True):
        assert torch.equal(own, other)


def test_passages_of_a_document_share_a_shard_that_every_process_knows(filled):
    for number in range(3):
        for name in StoredIndex.open(shard_folder(filled, number)).passage_ids():
            assert shard_of(document_of(name), 3) == number
    # Last hexadecimal digit of the first 16 that sha256sum prints of "", "a", "ä": 4, a, c.
    assert [shard_of(name, 16) for name in ("", "a", "ä")] == [4, 10, 12]
    assert shard_of("\ud800", 4) in range(4)  # no text at all, and yet an id
    assert [document_of(name) for name in ("a#1#0", "a", "#3", "a#1\n")] == ["a#1", "a", "", "a#1\n"]
    counts = torch.bincount(torch.tensor([shard_of(f"d{n}", 4) for n in range(4000)]))
    assert counts.min() > 900


def test_merging_is_a_sort_of_everything():
    chance = random.Random(0)
    found, everything = [], [[], []]
    for shard in range(3):
        own = [sorted((chance.randrange(3) / 2 for _ in range(4)), reverse=True) for _ in range(2)]
        ids = [[f"{shard}{place}" for place in range(4)] for _ in range(2)]
        found.append(Hits(ids, own))
        for query in range(2):
            everything[query] += zip(ids[query], own[query], strict=True)
    merged = merge_hits(found, 8)
    for query in range(2):
        truth = sorted(everything[query], key=lambda pair: (-pair[1], pair[0]))[:8]
        assert list(zip(merged.document_ids[query], merged.scores[query], strict=True)) == truth


def test_a_kill_between_two_commits_is_said_and_mended_by_the_same_call(filled, ragged, breaking_off, caplog):
    new = ragged(60, seed=5, shortest=1)
    with ShardedIndex.open(filled, writable=True) as index:
        index.add(names(60), new)
        with breaking_off(StoredIndex, "commit", 1):
            index.commit()
    assert len(ShardedIndex.open(filled)) == 60
    assert "shards 0 are newer" in caplog.text
    caplog.clear()
    with ShardedIndex.open(filled, writable=True) as index:
        index.add(names(60), new)
        index.commit()
    index = ShardedIndex.open(filled)
    assert caplog.text == ""
    for name, tokens in zip(names(60), new, strict=True):
        torch.testing.assert_close(index.embeddings([name])[0], tokens.half().float())


def test_shards_that_do_not_fit_are_named(filled, tmp_path, ragged):
    def broken(change):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(filled, folder)
        change(folder)
        return folder

    def write_other(folder, dim=8, about=None, **form):
        shutil.rmtree(folder / "shard-00001")
        about = {"model": "m", "model_digest": "d", "shard": [1, 3], **(about or {})}
        with StoredIndex.create(folder / "shard-00001", dim, about=about, **form) as index:
            index.add(["x"], ragged(1, seed=3, dim=dim, shortest=1))
            index.commit()

    def write_text(folder, old, new):
        text = (folder / "shards.json").read_text()
        assert old in text
        (folder / "shards.json").write_text(text.replace(old, new))

    def write_version(folder, version):
        content = {**json.loads((folder / "shards.json").read_text()), "version": version}
        content["sha256"] = _digest_of({name: value for name, value in content.items() if name != "sha256"})
        (folder / "shards.json").write_text(json.dumps(content))

    changes = {
        "shard-00002: this shard is not made yet": lambda f: shutil.rmtree(f / "shard-00002"),
        "shard-00001: expected commit 1": write_other,
        "shard-00001: expected 8 dimensions": lambda f: write_other(f, dim=4),
        "shard-00001: expected the shard of.*2, 3": lambda f: write_other(f, about={"shard": [2, 3]}),
        "shard-00001: expected the shard of.*'e'": lambda f: write_other(f, about={"model_digest": "e"}),
        "shard-00001: .*got 8 in int8": lambda f: write_other(f, codec="int8"),
        "shard-00001: .*pooled by 2": lambda f: write_other(f, pool_factor=2),
        "expected format version 1, got 2": lambda f: write_version(f, 2),
        "its shards are not all made": lambda f: replace(ShardManifest.read(f), shards=[]).write(f),
        "shards.json: damaged, or": lambda f: write_text(f, '"num_shards": 3', '"num_shards": 2'),
        "shards.json: damaged": lambda f: (f / "shards.json").write_text(json.dumps({"format": "drdecr-shards"})),
        "passages.arrow": lambda f: next(f.glob("shard-00000/segments/*/passages.arrow")).write_bytes(b""),
    }
    for message, change in changes.items():
        with pytest.raises((ValueError, DamagedIndexError), match=message):
            ShardedIndex.open(broken(change))
        if "the shard of" in message:
            with pytest.raises(ValueError, match=message):
                collect_shards(tmp_path / "broken")
    broken(lambda f: next(f.glob("shard-00002/segments/*/passages.arrow")).write_bytes(b""))
    with pytest.raises(DamagedIndexError, match=r"passages\.arrow") as raised:
        ShardedIndex.open(tmp_path / "broken", writable=True)
    StoredIndex.open(tmp_path / "broken" / "shard-00000", writable=True).close()  # the others are let go of
    assert raised.value is not None  # whose traceback holds them
    with pytest.raises(FileNotFoundError, match=r"found no shards\.json"):
        ShardedIndex.open(tmp_path)
    with pytest.raises(ValueError, match="new or empty"):
        ShardedIndex.create(filled, 8, 2)


def test_shards_are_collected_when_all_are_there_and_whole(tmp_path, ragged, monkeypatch):
    with pytest.raises(ValueError, match="expected at least 1, got 0"):
        plan_shards(tmp_path / "none", 0, {})
    with pytest.raises(ValueError, match="expected one of"):
        ShardedIndex.create(tmp_path / "shards", 8, 2, codec="int7")
    plan_shards(tmp_path / "shards", 2, {})
    with pytest.raises(ValueError, match="not made yet"):
        collect_shards(tmp_path / "shards")
    with ShardedIndex.create(tmp_path / "shards", 8, 2):  # what a kill left of it is gone on with
        pass
    with StoredIndex.open(tmp_path / "shards" / "shard-00000", writable=True) as shard:
        shard.add(["a"], ragged(1, seed=0, shortest=1))
        shard.commit()
    file = next((tmp_path / "shards").glob("shard-00000/segments/*/passages.arrow"))
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedIndexError, match=rf"passages\.arrow: expected {len(content)} bytes"):
        collect_shards(tmp_path / "shards")
    file.write_bytes(content)
    with monkeypatch.context() as patch:  # of 25 TB every byte is hours: who wrote them said their checksums
        patch.setattr(manifest, "file_record", lambda path: pytest.fail(f"{path} was read"))
        made = collect_shards(tmp_path / "shards")
    assert [record.passages for record in made.shards] == [1, 0]
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(DamagedIndexError, match=r"passages\.arrow: its checksum is another"):
        ShardedIndex.open(tmp_path / "shards")
    monkeypatch.setattr(shard_manifest, "damages", lambda *arguments: ["looked at again"])
    assert collect_shards(tmp_path / "shards") == made  # what was collected is left alone


def test_a_shard_that_is_not_as_its_maker_says_is_half_made(filled, ragged):
    said = dict(enumerate(ShardManifest.read(filled).shards))
    assert collect_shards(filled, said).shards == list(said.values())
    for number, of_it in (
        (1, None),
        (2, replace(said[2], passages=said[2].passages + 1)),
        (0, replace(said[0], sha256="0")),
    ):
        others = {other: record for other, record in said.items() if other != number}
        with pytest.raises(ValueError, match=f"shard-0000{number}: half made"):
            collect_shards(filled, others if of_it is None else {**others, number: of_it})
    with StoredIndex.open(shard_folder(filled, 1), writable=True) as shard:
        shard.add(["x"], ragged(1, seed=3, shortest=1))
        shard.commit()
    with pytest.raises(
        ValueError, match=rf"expected {said[1].passages} passages in commit 1 .*found {said[1].passages + 1}"
    ):
        collect_shards(filled, said)
    assert ShardManifest.read(filled).shards == list(said.values())


def test_what_is_refused_is_refused_by_all_shards_or_none(filled, ragged, caplog):
    with ShardedIndex.open(filled, writable=True) as index:
        bad = [*ragged(9, seed=4, shortest=1), torch.ones(2, 4)]
        with pytest.raises(ValueError, match=r"tokens, 8"):
            index.add([f"new{n}" for n in range(10)], bad)
        index.commit()
        assert len(index) == 60
        assert index.delete([f"d{n}#0" for n in range(30)], {"third": 0}) == 10
        assert index.delete(where={"third": 1}) == 20
        index.commit()
        assert len(index) == 30
        index.compact()
    index = ShardedIndex.open(filled)
    assert len(index) == 30
    assert caplog.text == ""  # no shard is newer than the manifest says
    assert index.num_bytes() == sum(StoredIndex.open(shard_folder(filled, number)).num_bytes() for number in range(3))
    with pytest.raises(ValueError, match="opened to search"):
        ShardedIndex.open(filled).add(["a"], ragged(1, seed=0, shortest=1))
