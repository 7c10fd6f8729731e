"""BM25 over English passages by bm25s: the first ranking that negatives are taken from, as in the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

K1, B = 0.9, 0.4
"""Anserini's settings for passages, with which DPR's negatives were found."""


class Bm25Index:
    """Passages by their words.

    Args:
        passages: `{document_id: text}`.
        k1: how fast a repeated word stops counting (default 0.9).
        b: how much a passage's length counts (default 0.4).

    Raises:
        ImportError: naming the extra, if bm25s is not installed.
        ValueError: for no passages.
    """

    def __init__(self, passages: Mapping[str, str], k1: float = K1, b: float = B) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise ImportError("BM25 needs `pip install drdecr[bm25]`.") from error
        if not passages:
            raise ValueError("BM25 expects passages, got none. Name a pool.")
        self.document_ids = list(passages)
        self._places = {name: place for place, name in enumerate(self.document_ids)}
        self._words: Any = bm25s.tokenize
        self._index = bm25s.BM25(k1=k1, b=b, backend="numpy")
        self._index.index(self._tokens(list(passages.values())), show_progress=False)

    def search(
        self, queries: Sequence[str], depth: int, also: Sequence[Sequence[str]] | None = None
    ) -> list[dict[str, float]]:
        """Rank passages for English questions.

        Args:
            queries: the questions.
            depth: passages a question; fewer where fewer share a word with it.
            also: passages of each question whose scores are wanted wherever they stand.

        Returns:
            For each question `{document_id: score}`, best first, equal scores in the passages' order; `also` behind them.
        """
        ranked = []
        wanted = also or [[]] * len(queries)
        for words, names in tqdm(
            zip(self._tokens(list(queries)), wanted, strict=True), desc="BM25", total=len(queries), disable=None
        ):
            scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(words))
            order = np.argsort(-scores, kind="stable")[:depth]
            found = {self.document_ids[place]: float(scores[place]) for place in order.tolist() if scores[place] > 0}
            ranked.append(found | {name: float(scores[self._places[name]]) for name in names if name not in found})
        return ranked

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        return self._words(texts, stopwords="en", return_ids=False, show_progress=False)
