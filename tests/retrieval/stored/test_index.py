"""The index on disk: what is searched, what is replaced, what a filter lets through."""

import numpy as np
import pytest
import torch

from drdecr.retrieval import ExactIndex, PassageIndex, StoredIndex
from drdecr.retrieval.stored import changes, passage_table, ranking
from drdecr.retrieval.stored import segment as segments
from drdecr.retrieval.stored import writer as writing
from drdecr.retrieval.stored.codecs import CODECS


def names(count, start=0):
    return [f"p{number}" for number in range(start, start + count)]


@pytest.fixture
def index(tmp_path):
    with StoredIndex.create(tmp_path / "index", dim=8) as made:
        yield made


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [1, 9, 4096])
@pytest.mark.parametrize("codec", CODECS)
def test_search_equals_a_loop_over_what_is_kept(
    tmp_path, ragged, ranked, codec, block, threads, monkeypatch, use_threads
):
    use_threads(threads)
    monkeypatch.setattr(ranking, "ROWS_PER_PART", 5 if threads > 1 else 4096)
    monkeypatch.setattr(segments, "TOKENS_PER_BLOCK", block)
    passages, queries = ragged(30, seed=0), ragged(5, seed=1)
    queries[3] = queries[3][:0]
    with StoredIndex.create(tmp_path / "index", dim=8, codec=codec) as index:
        index.add(names(18), passages[:18])
        index.commit()
        index.add(names(12, 18), passages[18:])
        index.commit()
    index = StoredIndex.open(tmp_path / "index")
    kept = dict(zip(names(30), index.embeddings(names(30)), strict=True))
    hits = index.search(queries, top_k=10, batch_size=2)
    for query, found, scores in zip(queries, hits.document_ids, hits.scores, strict=True):
        truth = ranked(query, kept, 10)
        assert scores == pytest.approx([score for _, score in truth], abs=1e-4)
        everything = dict(ranked(query, kept, 30))
        assert [everything[name] for name in found] == pytest.approx(scores, abs=1e-4)
        assert len(set(found)) == 10


def test_half_precision_finds_what_memory_finds(tmp_path, ragged):
    passages, queries = ragged(40, seed=0), ragged(6, seed=1, shortest=1)
    with StoredIndex.create(tmp_path / "index", dim=8) as index:
        index.add(names(40), passages)
        index.commit()
        hits, truth = index.search(queries), ExactIndex(names(40), passages).search(queries)
    assert hits.document_ids == truth.document_ids
    assert [score for row in hits.scores for score in row] == pytest.approx(
        [score for row in truth.scores for score in row], abs=5e-3
    )


def test_a_model_writes_and_another_process_finds(tmp_path, tiny_model):
    texts = ["the king of france", "the sea", "", "a river in a city", "paris"]
    with StoredIndex.create(tmp_path / "index", dim=16, metadata={"model": "tiny"}) as index:
        index.add(names(5), tiny_model.encode_documents(texts), [{"text": text} for text in texts])
        index.commit()
    index = StoredIndex.open(tmp_path / "index")
    hits = index.search(tiny_model.encode_queries(["the sea"]), top_k=5)
    scores = tiny_model.score(tiny_model.encode_queries(["the sea"]), tiny_model.encode_documents(texts))[0]
    assert hits.document_ids[0] == [f"p{number}" for number in scores.argsort(descending=True).tolist()]
    assert [payload["text"] for payload in index.payloads(hits.document_ids[0])] == [
        texts[int(p[1])] for p in hits.document_ids[0]
    ]
    assert index.metadata == {"model": "tiny"}
    assert isinstance(index, PassageIndex)


def test_nothing_is_found_before_its_commit_and_a_reader_stays_at_its_own(index, ragged):
    passages, query = ragged(6, seed=0), ragged(1, seed=1, shortest=1)
    index.add(names(3), passages[:3])
    assert len(index) == 0
    assert index.search(query).document_ids == [[]]
    index.commit()
    reader = StoredIndex.open(index.folder)
    index.add(names(3, 3), passages[3:])
    index.delete(["p0"])
    index.commit()
    index.compact()
    assert (len(reader), len(index)) == (3, 5)
    assert sorted(reader.search(query).document_ids[0]) == names(3)
    assert reader.embeddings(["p0"])[0].shape == passages[0].shape
    assert reader.refresh()
    assert not reader.refresh()
    assert sorted(reader.search(query).document_ids[0]) == names(5, 1)


def test_going_to_the_next_commit_reads_new_files_alone(index, ragged):
    passages = ragged(6, seed=0)
    index.add(names(3), passages[:3])
    index.commit()
    reader = StoredIndex.open(index.folder)
    (first,) = reader.segments
    index.add(names(3, 3), passages[3:])
    index.commit()
    assert reader.refresh()
    assert reader.segments[0] is first
    assert len(reader.segments) == 2
    index.delete(["p0"])
    index.commit()
    assert reader.refresh()
    assert reader.segments[0] is not first
    assert sorted(reader.passage_ids()) == names(5, 1)


@pytest.mark.parametrize("keys", ["apart", "one for all"])
def test_updates_and_deletes_leave_what_a_dictionary_would_hold(index, ragged, keys, monkeypatch):
    if keys == "one for all":
        for module in (passage_table, changes):
            monkeypatch.setattr(module, "id_keys", lambda ids: np.zeros(len(ids), dtype=np.int64))
    generator = torch.Generator().manual_seed(3)
    expected, waiting = {}, {}
    for step, tokens in enumerate(ragged(60, seed=0)):
        name = f"p{int(torch.randint(0, 12, (1,), generator=generator))}"
        if step % 4 == 3:
            index.delete([name, "never there"])
            waiting[name] = None
        else:
            index.add([name], [tokens], [{"step": step}])
            waiting[name] = (tokens.half().float(), step)
        if step % 7 == 6:
            index.commit()
            expected.update(waiting)
            waiting = {}
            if step % 21 == 20:
                index.compact()
            alive = {name: value for name, value in expected.items() if value is not None}
            assert sorted(index.passage_ids()) == sorted(alive)
            assert len(index) == len(alive)
            for name, (kept, at) in alive.items():
                torch.testing.assert_close(index.embeddings([name])[0], kept, check_stride=False)
                assert index.payloads([name]) == [{"step": at}]


def test_deletes_are_counted_by_id_and_by_payload(index, ragged):
    payloads = [{"document_id": f"d{number % 3}", "number": number} for number in range(9)]
    index.add(names(9), ragged(9, seed=0), payloads)
    assert index.delete(where={"number": [7, 8]}) == 2
    index.commit()
    assert index.delete(where={"document_id": "d0"}) == 3
    assert index.delete(["p0", "p1"]) == 1  # p0 is marked already
    assert index.delete(["p2"], where={"document_id": "d1"}) == 0
    index.commit()
    assert sorted(index.passage_ids()) == ["p2", "p4", "p5"]
    index.delete(["p2", "p4", "p5"])
    index.commit()
    assert (len(index), index.segments) == (0, [])
    with pytest.raises(ValueError, match="neither"):
        index.delete()


def test_a_filter_lets_through_what_has_the_value(index, ragged, ranked):
    payloads = [
        {"language": "en"},
        {"language": "ru", "tags": ["a", "b"]},
        {},
        {"tags": ["b"], "year": 1},
        {"year": True},
    ]
    passages, query = ragged(5, seed=0, shortest=1), ragged(1, seed=1, shortest=1)
    index.add(names(5), passages, payloads)
    index.commit()
    for where, rows in [
        ({"language": "en"}, [0]),
        ({"language": ["en", "ru"]}, [0, 1]),
        ({"tags": "b"}, [1, 3]),
        ({"tags": "b", "year": 1}, [3]),
        ({"year": True}, [4]),
        ({"year": None}, []),
        ({"colour": "red"}, []),
    ]:
        hits = index.search(query, where=where)
        truth = ranked(query[0], {f"p{row}": passages[row] for row in rows}, 5)
        assert hits.document_ids[0] == [name for name, _ in truth]


@pytest.mark.parametrize("threads", [1, 3])
def test_equal_scores_keep_their_order(index, threads, monkeypatch, use_threads):
    use_threads(threads)
    monkeypatch.setattr(ranking, "ROWS_PER_PART", 2)
    token = torch.nn.functional.normalize(torch.ones(1, 8), dim=-1)
    index.add(names(40), [token.repeat(2 if number % 2 else 1, 1) for number in range(40)])
    index.commit()
    order = [f"p{number}" for number in (*range(0, 40, 2), *range(1, 40, 2))]
    assert index.search([token], top_k=40).document_ids == [order]
    assert index.search([token], top_k=7).document_ids == [order[:7]]


def test_pooling_is_kept_with_the_index(tmp_path, ragged):
    from drdecr.retrieval import pool_tokens

    passages = ragged(10, seed=0)
    StoredIndex.create(tmp_path / "index", dim=8, pool_factor=2).close()
    with StoredIndex.open(tmp_path / "index", writable=True) as index:
        index.add(names(10), passages)
        index.commit()
        for name, tokens in zip(names(10), passages, strict=True):
            torch.testing.assert_close(index.embeddings([name])[0], pool_tokens(tokens, 2).half().float())


@pytest.mark.parametrize(
    ("ids", "passages", "message"),
    [
        (["a"], [torch.ones(2, 8), torch.ones(2, 8)], "got 1 ids, 2 embeddings"),
        (["a", "a"], [torch.ones(2, 8), torch.ones(2, 8)], "'a' twice"),
        ([""], [torch.ones(2, 8)], "not empty"),
        (["a"], [torch.ones(2, 4)], r"expected embeddings \(tokens, 8\), got \(2, 4\)"),
        (["a"], [torch.full((2, 8), float("nan"))], "NaN"),
    ],
)
def test_passages_that_cannot_be_kept_are_refused(index, ids, passages, message):
    with pytest.raises(ValueError, match=message):
        index.add(ids, passages)
    index.commit()
    assert len(index) == 0


def test_searches_and_openings_that_cannot_be_are_refused(index, tmp_path, ragged):
    for arguments, message in [({"top_k": 0}, "top_k"), ({"batch_size": -1}, "batch_size")]:
        with pytest.raises(ValueError, match=message):
            index.search(ragged(1, seed=0), **arguments)
    with pytest.raises(ValueError, match=r"tokens, 8"):
        index.search([torch.ones(2, 4)])
    with pytest.raises(ValueError, match="another process is writing"):
        StoredIndex.open(index.folder, writable=True)
    with pytest.raises(ValueError, match="opened to search"):
        StoredIndex.open(index.folder).add(["a"], ragged(1, seed=0))
    with pytest.raises(ValueError, match="new or empty folder"):
        StoredIndex.create(index.folder, dim=8)
    with pytest.raises(FileNotFoundError, match="found no manifest"):
        StoredIndex.open(tmp_path)
    with pytest.raises(ValueError, match="'p9' is none of the 0 passages"):
        index.payloads(["p9"])


def test_odd_ids_and_payloads_come_back_as_they_were(index, ragged):
    odd = ["\ud800", "a\x00b", "‮rtl", "👩‍👩‍👧", "x" * 10_000, "\n", "é"]
    index.add(odd, ragged(len(odd), seed=0), [{"text": name, "more": [None, 1.5, {"k": "\udfff"}]} for name in odd])
    index.commit()
    index.compact()
    reader = StoredIndex.open(index.folder)
    assert sorted(reader.passage_ids()) == sorted(odd)
    assert [payload["text"] for payload in reader.payloads(odd)] == odd
    assert reader.payloads(odd)[0]["more"] == [None, 1.5, {"k": "\udfff"}]


def test_a_copy_of_files_alone_and_folders_of_other_programs_do_not_keep_a_writer_out(tmp_path, ragged):
    StoredIndex.create(tmp_path / "index", dim=8).close()
    (tmp_path / "index" / "segments").rmdir()  # as of a copy that knows files alone
    for number, tokens in enumerate(ragged(2, seed=0, shortest=1)):
        with StoredIndex.open(tmp_path / "index", writable=True) as index:
            index.add([str(number)], [tokens])
            index.commit()
        (index.folder / "segments" / "s000001" / "@eaDir").mkdir(exist_ok=True)
    assert StoredIndex.open(tmp_path / "index").passage_ids() == ["0", "1"]


@pytest.mark.parametrize("codec", CODECS)
def test_passages_without_a_token_are_kept_and_come_last(tmp_path, codec):
    token = torch.nn.functional.normalize(torch.ones(1, 8), dim=-1)
    with StoredIndex.create(tmp_path / "index", dim=8, codec=codec) as index:
        index.add(["empty"], [torch.empty(0, 8)], [{"text": ""}])
        index.commit()
        assert index.search([token, token[:0]]).scores == [[-1.0], [0.0]]
        index.add(["opposite"], [-token])
        index.commit()
        assert index.search([token]).scores[0] == pytest.approx([-1.0, -1.0], abs=1e-3)
        index.compact()
    index = StoredIndex.open(tmp_path / "index")
    assert sorted(index.search([token]).document_ids[0]) == ["empty", "opposite"]
    assert index.payloads(["empty"]) == [{"text": ""}]
    assert index.embeddings(["empty"])[0].shape == (0, 8)


@pytest.mark.parametrize("codec", CODECS)
def test_compacting_to_another_codec_reads_with_it(tmp_path, ragged, codec):
    passages, queries = ragged(20, seed=0, shortest=1), ragged(3, seed=1, shortest=1)
    for folder, first in ((tmp_path / "a", "float16"), (tmp_path / "b", codec)):
        with StoredIndex.create(folder, dim=8, codec=first) as index:
            index.add(names(20), [tokens.half() for tokens in passages])
            index.commit()
            if first != codec:
                index.compact(codec)
    found, expected = (StoredIndex.open(tmp_path / name) for name in "ab")
    assert found.manifest.codec == codec
    assert found.search(queries) == expected.search(queries)
    with StoredIndex.open(tmp_path / "a", writable=True) as index, pytest.raises(ValueError, match="codec: expected"):
        index.compact("int3")


def test_a_passage_does_not_come_back_when_its_replacement_is_deleted_before_the_commit(index, ragged):
    index.add(["a", "b"], ragged(2, seed=0), [{"year": 1}, {"year": 1}])
    index.commit()
    index.add(["a"], ragged(1, seed=1), [{"year": 2}])
    assert index.delete(where={"year": 2}) == 2  # what waits, and what it was to replace
    index.commit()
    assert index.passage_ids() == ["b"]


def test_a_folder_that_a_killed_create_left_becomes_an_index(tmp_path):
    (tmp_path / "index" / "segments").mkdir(parents=True)
    (tmp_path / "index" / ".manifest.json.7.tmp").touch()
    with StoredIndex.create(tmp_path / "index", dim=8) as index:
        assert len(index) == 0
    assert sorted(path.name for path in index.folder.glob(".*")) == []
    (tmp_path / "other" / "segments" / "s000001").mkdir(parents=True)
    with pytest.raises(ValueError, match="new or empty folder"):
        StoredIndex.create(tmp_path / "other", dim=8)


@pytest.mark.parametrize("codec", CODECS)
def test_compaction_writes_what_one_commit_would_have_written(tmp_path, ragged, codec, monkeypatch):
    monkeypatch.setattr(writing, "TOKENS_PER_BLOCK", 16)
    passages = ragged(60, seed=0, dim=16)
    payloads = [{"number": number} for number in range(60)]
    with StoredIndex.create(tmp_path / "parts", dim=16) as index:
        for start in range(0, 60, 13):
            rows = slice(start, start + 13)
            index.add(names(60)[rows], passages[rows], payloads[rows])
            index.commit()
        index.delete(["p5", "p40"])
        index.commit()
        index.compact(codec)
        kept = [number for number in range(60) if number not in (5, 40)]
        assert (len(index.segments), len(index), index.manifest.codec) == (1, 58, codec)
        assert index.payloads([f"p{number}" for number in kept]) == [payloads[number] for number in kept]
    with StoredIndex.create(tmp_path / "whole", dim=16, codec=codec) as whole:
        whole.add([f"p{number}" for number in kept], [passages[number].half() for number in kept])
        whole.commit()
    (ours,), (theirs,) = index.segments, whole.segments
    assert ours.table.ids() == theirs.table.ids()
    for name, array in theirs.arrays.items():
        assert (ours.arrays[name] == array).all()
    assert (tmp_path / "parts/segments" / ours.record.name / "offsets.npy").read_bytes() == (
        tmp_path / "whole/segments" / theirs.record.name / "offsets.npy"
    ).read_bytes()


@pytest.mark.parametrize("codec", ["int8", "residual4"])
def test_a_filter_reads_rows_apart_and_in_one_piece_alike(tmp_path, ragged, ranked, codec):
    passages, query = ragged(40, seed=0), ragged(1, seed=1, shortest=2)[0]
    with StoredIndex.create(tmp_path / "index", dim=8, codec=codec) as index:
        index.add(names(40), passages, [{"tenth": n % 10 == 0, "most": n % 4 > 0, "n": n} for n in range(40)])
        index.commit()
        kept = dict(zip(names(40), index.embeddings(names(40)), strict=True))
        for key, count in (("tenth", 4), ("most", 30)):
            hits = index.search([query], top_k=40, where={key: True})
            wanted = [f"p{n}" for n in range(40) if (n % 10 == 0 if key == "tenth" else n % 4 > 0)]
            truth = ranked(query, {name: kept[name] for name in wanted}, 40)
            assert sorted(hits.document_ids[0]) == sorted(wanted)
            assert len(wanted) == count
            assert hits.scores[0] == pytest.approx([score for _, score in truth], abs=1e-5)


def test_segments_of_other_processes_are_part_of_the_commit_that_takes_them_in(tmp_path, ragged, ranked):
    passages, queries = ragged(12, seed=0, shortest=1), ragged(3, seed=1, shortest=1)
    names = [f"p{number}" for number in range(12)]
    folder = tmp_path / "index"
    with StoredIndex.create(folder, dim=8) as writer:
        writer.add(names[:4], ragged(4, seed=2, shortest=1))  # to be replaced
        writer.commit()
        others = [StoredIndex.open(folder), StoredIndex.open(folder)]
        records = [
            other.write_segment(names[start : start + 4], passages[start : start + 4], [{"of": start}] * 4)
            for other, start in zip(others, (0, 4), strict=True)
        ]
        assert len(StoredIndex.open(folder)) == 4  # of no commit yet
        writer.add(names[8:], passages[8:], [{"of": 8}] * 4)
        writer.commit(records)
        left = others[0].write_segment(["lost"], passages[:1], [{}])
    index = StoredIndex.open(folder)
    assert sorted(index.passage_ids()) == sorted(names)
    assert index.payloads(["p0", "p5", "p11"]) == [{"of": 0}, {"of": 4}, {"of": 8}]
    by_id = dict(zip(names, passages, strict=True))
    for query, ids in zip(queries, index.search(queries, top_k=5).document_ids, strict=True):
        assert ids == [name for name, _ in ranked(query, by_id, 5)]
    with StoredIndex.open(folder, writable=True):
        assert not (folder / "segments" / left.name).exists()
    with pytest.raises(ValueError, match="twice"):
        others[0].write_segment(["a", "a"], passages[:2], [{}, {}])
