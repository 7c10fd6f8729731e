"""A collection is read once for all shards, and a call that was killed neither reads nor makes anything twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from drdecr import dealing, encode
from drdecr.data.documents import read_documents
from drdecr.dealing import DEALT, dealt_documents, documents_for, tell_made
from drdecr.encode import Splitting
from drdecr.retrieval import ShardedIndex, StoredIndex, manifest
from drdecr.retrieval.shard_manifest import plan_shards, shard_folder, shard_of
from drdecr.sharded_encoding import EncodingJob, encode_shards
from drdecr.stage import run_stage

LETTERS = "bcdefghijklm"


@pytest.fixture
def job(recipe_of, tmp_path):
    model = str(run_stage(recipe_of("start", stage="initialise")))
    write(tmp_path / "d.jsonl", LETTERS)
    return EncodingJob(model, str(tmp_path / "d.jsonl"), tmp_path / "shards", 3, Splitting(overlap=3), batch_size=4)


def write(path, letters, text="the city {} is in france. "):
    rows = [{"id": f"d#{letter}", "text": text.format(letter) * 5, "from": "ä\u2028\n"} for letter in letters]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def reads(monkeypatch):
    """The sources that were read from one end to the other."""
    found, real = [], dealing.located_documents

    def counted(source):
        yield from real(source)
        found.append(source)

    monkeypatch.setattr(dealing, "located_documents", counted)
    return found


def held(folder):
    index = ShardedIndex.open(folder)
    ids = index.passage_ids()
    return dict(zip(ids, (payload["text"] for payload in index.payloads(ids)), strict=True))


@pytest.mark.parametrize("characters", [1, 200, 1 << 26])
def test_each_shard_gets_its_documents_as_they_are(tmp_path, monkeypatch, characters):
    monkeypatch.setattr(dealing, "CHARACTERS_IN_MEMORY", characters)
    write(tmp_path / "d.jsonl", LETTERS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a b.txt").write_bytes(b"one\r\ntwo \xff\x00")
    for source in (tmp_path / "d.jsonl", tmp_path / "folder"):
        folder = tmp_path / f"shards of {source.name}"
        plan_shards(folder, 5, {})
        with pytest.raises(ValueError, match="not made yet"), dealt_documents(str(source), folder, 5, False):  # noqa: PT012
            dealt = [list(documents_for(folder, number)) for number in range(5)]
            for number, own in enumerate(dealt):
                expected = [one for one in read_documents(source) if shard_of(one.document_id, 5) == number]
                assert own == expected
        assert sum(map(len, dealt)) == len(list(read_documents(source)))


def test_one_call_reads_the_collection_once_and_leaves_nothing_of_it(job, reads):
    assert encode_shards(job)["new"] == 12
    assert reads == [job.documents]
    assert sorted(path.name for path in job.folder.iterdir() if path.suffix != ".lock") == [
        *(f"shard-0000{number}" for number in range(3)),
        "shards.json",
    ]


def test_a_call_that_was_killed_reads_nothing_again_and_opens_no_shard_that_is_made(
    job, reads, monkeypatch, breaking_off
):
    truth = replace(job, folder=job.folder.with_name("truth"))
    encode_shards(truth)
    monkeypatch.setattr(encode, "PASSAGES_A_COMMIT", 2)
    with breaking_off(StoredIndex, "commit", 3):  # in the second shard
        encode_shards(job)
    assert (job.folder / DEALT / "00000.json").is_file()
    opened, open_index = [], StoredIndex.open
    monkeypatch.setattr(
        StoredIndex, "open", lambda folder, **how: opened.append(folder.name) or open_index(folder, **how)
    )
    reads.clear()
    counts = encode_shards(job)
    assert reads == []
    assert counts["new"] + counts["unchanged"] == 12
    assert "shard-00000" not in opened
    assert held(job.folder) == held(truth.folder)


def test_a_collection_that_changed_behind_a_kill_is_read_again(job, reads, breaking_off):
    with breaking_off(StoredIndex, "commit", 1):
        encode_shards(job)
    gone = next(letter for letter in LETTERS if shard_of(f"d#{letter}", 3) == 0)  # which is made
    left = LETTERS.replace(gone, "") + "n"
    write(Path(job.documents), left, "a river {} ")
    counts = encode_shards(replace(job, prune=True))
    assert (len(reads), counts["deleted"]) == (2, 1)
    assert {name.rpartition("#")[0] for name in held(job.folder)} == {f"d#{letter}" for letter in left}
    assert all("river" in text for text in held(job.folder).values())


@pytest.mark.parametrize("is_there", [False, True])
def test_a_shard_that_was_taken_away_or_changed_behind_a_kill_is_made_again(job, breaking_off, is_there):
    with breaking_off(StoredIndex, "commit", 2):
        encode_shards(job)
    if is_there:
        with StoredIndex.open(shard_folder(job.folder, 0), writable=True) as shard:
            shard.delete(shard.passage_ids())
            shard.commit()
    else:
        shutil.rmtree(shard_folder(job.folder, 0))
    encode_shards(job)
    assert len({name.rpartition("#")[0] for name in held(job.folder)}) == 12


def test_what_was_collected_is_not_read_again_to_be_brought_up_to_date(job, monkeypatch):
    encode_shards(job)
    write(Path(job.documents), LETTERS + "n")
    monkeypatch.setattr(manifest, "file_record", lambda path: pytest.fail(f"{path} was read"))
    counts = encode_shards(job)
    assert (counts["new"], counts["unchanged"]) == (1, 12)


def test_damage_to_what_a_killed_call_wrote_is_named(job, monkeypatch, breaking_off):
    monkeypatch.setattr(encode, "PASSAGES_A_COMMIT", 1)
    with breaking_off(StoredIndex, "commit", 1):
        encode_shards(job)
    vectors = next(shard_folder(job.folder, 0).glob("segments/*/vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"vectors\.npy: its checksum is another"):
        encode_shards(job)


@pytest.mark.parametrize("left", [0, 1])
def test_documents_that_were_lost_after_dealing_are_not_taken_for_deleted(job, breaking_off, left):
    encode_shards(job)
    truth = held(job.folder)
    write(Path(job.documents), LETTERS, "the sea {} ")
    with breaking_off(StoredIndex, "commit", 0):
        encode_shards(replace(job, prune=True))
    dealt = job.folder / DEALT / "00001.jsonl"
    lines = dealt.read_text().removesuffix("\n").split("\n")
    dealt.write_text("".join(f"{line}\n" for line in lines[:left]) + "\0\0")
    with pytest.raises(ValueError, match=f"expected {len(lines)} documents, found {left}. Give the same command again"):
        encode_shards(replace(job, prune=True))
    encode_shards(replace(job, prune=True))
    now = held(job.folder)
    assert {name.rpartition("#")[0] for name in now} == {name.rpartition("#")[0] for name in truth}
    assert all("the sea" in text for text in now.values())


def test_an_id_that_stands_twice_is_told_with_its_place_in_the_source(job):
    lines = Path(job.documents).read_text().splitlines(keepends=True)
    Path(job.documents).write_text("".join([*lines, lines[3]]))
    with pytest.raises(ValueError, match=r"d\.jsonl, line 13: document 'd#e' stands twice"):
        encode_shards(job)
    Path(job.documents).write_text("".join(lines))
    assert encode_shards(job)["passages"] > 0
    assert len({name.rpartition("#")[0] for name in held(job.folder)}) == 12


def test_one_call_at_a_time_deals_and_half_made_shards_are_not_collected(job):
    plan_shards(job.folder, 1, {})
    with pytest.raises(ValueError, match="half made"), dealt_documents(job.documents, job.folder, 1, False):  # noqa: PT012
        other = dealt_documents(job.documents, job.folder, 1, False)
        with pytest.raises(ValueError, match="another process is writing to these shards"):
            other.__enter__()
        StoredIndex.create(shard_folder(job.folder, 0), 8, about={"shard": [0, 1]}).close()
    with dealt_documents(job.documents, job.folder, 1, False):
        tell_made(job.folder, 0)
    assert len(ShardedIndex.open(job.folder)) == 0
