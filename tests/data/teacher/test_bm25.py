"""BM25 in blocks on disk scores as bm25s does over the whole collection, whatever the blocks, and goes on after a kill."""

import random

import numpy as np
import pytest

from drdecr.data.passages import PassageStore

bm25s = pytest.importorskip("bm25s")
bm25 = pytest.importorskip("drdecr.data.teacher.bm25")

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture
def passages() -> dict[str, str]:
    drawn = random.Random(3)
    weights = [1 / (number + 1) for number in range(len(WORDS))]
    texts = (" ".join(drawn.choices(WORDS, weights, k=drawn.randint(2, 30))) for _ in range(53))
    return {f"d{number}": text for number, text in enumerate(texts)}


QUERIES = ["w0 w7 w7 w39", "w20 unknown", "nothing", "w1 w2 w3 w4 w5"]


def whole(passages: dict[str, str]) -> list[np.ndarray]:
    """Return what bm25s gives in one piece."""
    index = bm25s.BM25(k1=0.9, b=0.4, backend="numpy")
    tokens = bm25s.tokenize(list(passages.values()), stopwords="en", return_ids=False, show_progress=False)
    index.index(tokens, show_progress=False)
    return [index.get_scores_from_ids(index.get_tokens_ids(query.split())) for query in QUERIES]


@pytest.mark.parametrize("block", [4, 7, 53, 1000])
def test_blocks_give_the_scores_of_one_index(passages, block):
    index = bm25.Bm25Index(passages, block=block)
    also = [["d0", "d52"]] * len(QUERIES)
    for found, expected in zip(index.search(QUERIES, 10, also), whole(passages), strict=True):
        order = [place for place in np.argsort(-expected, kind="stable")[:10] if expected[place] > 0]
        assert list(found)[: len(order)] == [f"d{place}" for place in order]
        assert {*found} == {*(f"d{place}" for place in order), "d0", "d52"}
        for name, score in found.items():
            assert score == pytest.approx(expected[int(name[1:])], rel=1e-5, abs=1e-6)


def test_some_of_a_files_passages_are_a_collection_of_their_own(passages):
    stored = PassageStore((("x", n, *pair) for n, pair in enumerate(passages.items())), "x")
    kept = np.arange(len(passages)) % 3 != 0
    chosen = {name: text for (name, text), own in zip(passages.items(), kept, strict=True) if own}
    also = [["d52", "d1"]] * len(QUERIES)
    found = list(bm25.Bm25Index(stored.only(kept), block=7).search(QUERIES, 10, also))
    assert found == list(bm25.Bm25Index(chosen, block=7).search(QUERIES, 10, also))
    assert set().union(*found) <= set(chosen)


def test_equal_scores_stand_in_the_order_of_the_passages_across_blocks():
    same = {f"d{number}": "lighthouse keeper" for number in range(9)}
    for block in (2, 9):
        assert list(next(bm25.Bm25Index(same, block=block).search(["lighthouse"], 4))) == ["d0", "d1", "d2", "d3"]


def test_an_index_that_was_cut_short_goes_on_and_is_the_same(passages, tmp_path, monkeypatch):
    stored = PassageStore((("x", n, *pair) for n, pair in enumerate(passages.items())), "x")
    expected = list(bm25.Bm25Index(stored, folder=tmp_path / "whole", block=10).search(QUERIES, 7))
    counted, scored = bm25.Bm25Index._counted, bm25.Bm25Index._score_block
    calls = []

    def dying(self, *arguments, original, number):
        calls.append(number)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(self, *arguments)

    for name, original, number in (("_counted", counted, 3), ("_counted", counted, 2), ("_score_block", scored, 4)):
        calls.clear()
        monkeypatch.setattr(
            bm25.Bm25Index, name, lambda self, *a, o=original, n=number: dying(self, *a, original=o, number=n)
        )
        with pytest.raises(KeyboardInterrupt):
            bm25.Bm25Index(stored, folder=tmp_path / "cut", block=10)
        monkeypatch.setattr(bm25.Bm25Index, name, original)
    calls.clear()
    monkeypatch.setattr(bm25.Bm25Index, "_score_block", lambda self, *a: dying(self, *a, original=scored, number=99))
    assert list(bm25.Bm25Index(stored, folder=tmp_path / "cut", block=10).search(QUERIES, 7)) == expected
    assert len(calls) == 3  # of six blocks three were there
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )
