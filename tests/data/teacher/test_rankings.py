"""Rankings by a model: what candidates leave out is all that they change, and a killed call goes on."""

import types
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import normalize

from drdecr.data.passages import PassageStore
from drdecr.data.teacher import rankings
from drdecr.data.teacher.rankings import PoolSearch, encode_pool, model_ranker, rank_in_shards
from drdecr.retrieval import StoredIndex

SEED = 7
DIM, PASSAGES, QUESTIONS, DEPTH = 8, 60, 7, 12


def drawn(texts: list[str], **_) -> list[torch.Tensor]:
    """Tokens that depend on the text alone: as many as it has letters."""
    made = ((text, torch.Generator().manual_seed(SEED * int.from_bytes(text.encode()[-3:]))) for text in texts)
    return [normalize(torch.randn(len(text), DIM, generator=one), dim=1) for text, one in made]


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr(rankings, "model_digest", lambda model: model.digest)
    monkeypatch.setattr(rankings, "PASSAGES_PER_COMMIT", 25)
    monkeypatch.setattr(rankings, "QUESTIONS_PER_SHARD", 3)
    config = types.SimpleNamespace(embedding_dim=DIM)
    return types.SimpleNamespace(config=config, encode_documents=drawn, encode_queries=drawn, digest="drawn")


@pytest.fixture
def passages() -> PassageStore:
    return collection(*(f"{'t' * (n % 5)}p{n:02}" for n in range(PASSAGES)))


def collection(*texts: str) -> PassageStore:
    return PassageStore((("x", n, f"d{n}", text) for n, text in enumerate(texts)), "x")


@pytest.fixture
def ranked(reader, passages, tmp_path):
    """`ranked(name, codec, pool, folder, **search)` ranks in the folder `name` and returns `{row: score}` of each question."""

    def rank(
        name: str, codec: str = "residual4", pool: PassageStore = passages, folder: Path | None = None, **search
    ) -> list[dict[int, float]]:
        questions = Dataset.from_dict({"query": [f"question {number}" for number in range(QUESTIONS)]})
        with StoredIndex.open(encode_pool(reader, pool, folder or tmp_path / name, codec)) as index:
            ranker = model_ranker(index, reader, DEPTH, PoolSearch(**search))
            shards = rank_in_shards(ranker, questions, pool, tmp_path / name / "rankings")
        assert len(shards) == 3  # two of three questions, and one of one
        rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
        return [dict(zip(row["rows"], row["scores"], strict=True)) for row in rows]

    return rank


def test_an_exact_search_ranks_as_a_loop_over_all_pairs_does(ranked, passages):
    for number, found in enumerate(ranked("exact", "float16")[:2]):
        query = drawn([f"question {number}"])[0]
        scores = [
            sum(max(float(q @ d.half().float()) for d in drawn([text])[0]) for q in query) for text in passages.values()
        ]
        best = sorted(range(PASSAGES), key=lambda row: -scores[row])[:DEPTH]
        assert list(found) == best
        assert list(found.values()) == pytest.approx([scores[row] for row in best], abs=1e-4)


def test_all_passages_as_candidates_give_the_exact_ranking(ranked):
    truth = ranked("exact")
    found = ranked("all", by="centroids", num_candidates=PASSAGES)
    assert [list(row) for row in found] == [list(row) for row in truth]
    for own, expected in zip(found, truth, strict=True):
        assert own == pytest.approx(expected, abs=1e-5)


def test_few_candidates_are_scored_exactly(ranked, monkeypatch):
    found = ranked("few", by="centroids", num_candidates=DEPTH)
    monkeypatch.setattr(f"{__name__}.DEPTH", PASSAGES)
    every = ranked("exact")
    missed = 0
    for own, scores in zip(found, every, strict=True):
        assert len(own) == 12
        assert list(own.values()) == sorted(own.values(), reverse=True)
        assert own == pytest.approx({row: scores[row] for row in own}, abs=1e-5)
        missed += len(set(list(scores)[:12]) - set(own))
    assert missed > 0  # else these were no candidates


def test_a_killed_call_goes_on_with_the_index_that_it_made(ranked, reader, breaking_off):
    truth = ranked("whole")
    with breaking_off(StoredIndex, "commit", 1):
        ranked("killed")
    left = []
    reader.encode_documents = lambda texts, **keywords: left.extend(texts) or drawn(texts, **keywords)
    assert ranked("killed") == truth
    assert len(left) == PASSAGES - 25  # those behind the first commit


def test_a_kept_index_is_taken_for_the_same_model_texts_and_codes_alone(ranked, reader, passages, tmp_path):
    kept = tmp_path / "kept"
    found = ranked("first", "float16", folder=kept)
    reader.encode_documents = None
    assert ranked("again", "float16", folder=kept) == found
    reader.encode_documents = drawn
    assert len(list(kept.iterdir())) == 1
    texts = list(passages.values())
    ranked("other text", "float16", collection(texts[0] + "!", *texts[1:]), kept)
    assert len(list(kept.iterdir())) == 2
    ranked("other codes", "int8", folder=kept)
    assert len(list(kept.iterdir())) == 3
    reader.digest = "other"
    ranked("other model", "int8", folder=kept)
    assert len(list(kept.iterdir())) == 4
