"""BM25 over English passages by bm25s, in blocks on disk: the first ranking that negatives are taken from, as in the paper.

```
words-00000.json      words that no block before had, in the order of their numbers
counts-00000.npz      how often which word stands in which passage of a block
block-00000/          an index of bm25s, mapped into memory, whose scores know all blocks
```
"""

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from drdecr.data.files import clear_unfinished, whole_file, write_atomically
from drdecr.data.passages import PassageStore

K1, B = 0.9, 0.4
"""Anserini's settings for passages, with which DPR's negatives were found."""

BLOCK = 65_536
"""Passages of a block: counting one of Wikipedia's takes some 200 MB."""

_BATCH = 1024


class Bm25Index:
    """Passages by their words. Memory holds one block's counts while it is made, and each different word once.

    Args:
        passages: `{document_id: text}`.
        k1: how fast a repeated word stops counting (default 0.9).
        b: how much a passage's length counts (default 0.4).
        folder: of the index; default: a temporary one. A call that was killed goes on there at the block it was in; it must
            be of the same passages.
        block: passages of a block (default 65,536). It changes no score.

    Raises:
        ImportError: naming the extra, if bm25s is not installed.
        ValueError: for no passages.
    """

    def __init__(
        self,
        passages: Mapping[str, str],
        k1: float = K1,
        b: float = B,
        folder: Path | None = None,
        block: int = BLOCK,
    ) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise ImportError("BM25 needs `pip install drdecr[bm25]`.") from error
        if not passages:
            raise ValueError("BM25 expects passages, got none. Name a pool.")
        self._bm25s: Any = bm25s
        if not isinstance(passages, PassageStore):
            rows = ((0, line, name, text) for line, (name, text) in enumerate(passages.items(), start=1))
            passages = PassageStore(rows, "the pool")
        self.passages, self.k1, self.b = passages, k1, b
        self._rows = passages.kept_rows()
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="drdecr-bm25-")
            folder = Path(self._temporary.name)
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder)
        self._words: dict[str, int] = {}
        starts = range(0, len(self._rows), block)
        self._count(folder, block, len(starts))
        self._blocks = self._scored(folder, len(starts))

    def search(
        self, queries: Iterable[str], depth: int, also: Iterable[Sequence[str]] | None = None
    ) -> Iterator[dict[str, float]]:
        """Rank passages for English questions.

        Args:
            queries: the questions.
            depth: passages a question; fewer where fewer share a word with it.
            also: passages of each question whose scores are wanted wherever they stand.

        Yields:
            For each question `{document_id: score}`, best first, equal scores in the passages' order; `also` behind them.
        """
        wanted: Iterable[Sequence[str]] = itertools.repeat([]) if also is None else also
        for query, names in zip(queries, wanted, strict=also is not None):
            yield self._ranked(query, depth, names)

    def _ranked(self, query: str, depth: int, also: Sequence[str]) -> dict[str, float]:
        ids = np.array([self._words[word] for word in self._tokens([query])[0] if word in self._words], dtype=np.int64)
        places = {name: int(np.searchsorted(self._rows, self.passages.row_of(name))) for name in also}
        own: dict[str, float] = {}
        found: list[npt.NDArray[np.int64]] = []
        best: list[npt.NDArray[np.float32]] = []
        start = 0
        for index, words in self._blocks:
            length = int(index.scores["num_docs"])
            scores = _scores(index, words, ids)
            own |= {name: float(scores[place - start]) for name, place in places.items() if 0 <= place - start < length}
            hits = np.flatnonzero(scores > 0)
            if len(hits) > depth:  # equal scores at the end of the ranking all stay, so that their order decides
                least = np.partition(scores[hits], len(hits) - depth)[len(hits) - depth]
                hits = hits[scores[hits] >= least]
            found.append(hits + start)
            best.append(scores[hits])
            start += length
        joined, values = np.concatenate(found), np.concatenate(best)
        order = np.argsort(-values, kind="stable")[:depth]
        ranked = {self.passages.id_at(int(self._rows[joined[one]])): float(values[one]) for one in order.tolist()}
        return ranked | {name: score for name in also if name not in ranked for score in [own[name]]}

    def _count(self, folder: Path, block: int, num_blocks: int) -> None:
        """Write how often which word stands where, block by block."""
        texts = (text for _, found in self.passages.batches() for text in found)
        for number in tqdm(range(num_blocks), desc="BM25, counting words", unit="block", disable=_few(num_blocks)):
            words, counts = folder / f"words-{number:05d}.json", folder / f"counts-{number:05d}.npz"
            if counts.exists() or (folder / f"block-{number:05d}").exists():
                for word in json.loads(words.read_text(encoding="utf-8")):
                    self._words[word] = len(self._words)
                next(itertools.islice(texts, block - 1, block), None)
                continue
            known = len(self._words)
            arrays = self._counted(list(itertools.islice(texts, block)))
            new = list(itertools.islice(self._words, known, None))
            write_atomically(words, json.dumps(new, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            with whole_file(counts) as unfinished, unfinished.open("wb") as stream:
                np.savez(stream, **arrays)
            del arrays  # before the next block's texts are read

    def _counted(self, texts: list[str]) -> dict[str, Any]:
        """Return words, passages and times, ordered by word and then passage, and the passages' lengths."""
        numbers: list[npt.NDArray[np.int64]] = []
        lengths: list[int] = []
        for start in range(0, len(texts), _BATCH):
            tokens = self._tokens(texts[start : start + _BATCH])
            lengths += map(len, tokens)
            flat = [self._words.setdefault(word, len(self._words)) for own in tokens for word in own]
            numbers.append(np.array(flat, dtype=np.int64))
        places = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
        pairs, times = np.unique(np.concatenate(numbers) * len(texts) + places, return_counts=True)
        return {
            "words": (pairs // len(texts)).astype(np.int32),
            "places": (pairs % len(texts)).astype(np.int32),
            "times": times.astype(np.float32),
            "lengths": np.array(lengths, dtype=np.int32),
        }

    def _scored(self, folder: Path, num_blocks: int) -> list[tuple[Any, npt.NDArray[np.int32]]]:
        """Make the blocks of scores, by Lucene's formula with the counts of all blocks, and open them."""
        folders = [folder / f"block-{number:05d}" for number in range(num_blocks)]
        if not all(one.exists() for one in folders):
            weights, mean = self._weights(folder, num_blocks)
            for number, target in enumerate(
                tqdm(folders, desc="BM25, scoring", unit="block", disable=_few(num_blocks))
            ):
                if not target.exists():
                    with np.load(_counts(folder, number)) as counts:
                        self._score_block(counts, weights, mean, target)
        for number in range(num_blocks):  # the scores stand in the blocks now
            _counts(folder, number).unlink(missing_ok=True)
        load = self._bm25s.BM25.load
        return [(load(one, mmap=True, load_vocab=False), np.load(one / "words.npy")) for one in folders]

    def _weights(self, folder: Path, num_blocks: int) -> tuple[npt.NDArray[np.float64], float]:
        """Return each word's weight, `(words,)`, and the passages' mean length; kept for calls that go on."""
        file = folder / "weights.npz"
        if not file.exists():
            holding, length = np.zeros(len(self._words), dtype=np.int64), 0
            for number in range(num_blocks):
                with np.load(_counts(folder, number)) as counts:
                    holding += np.bincount(counts["words"], minlength=len(self._words))
                    length += int(counts["lengths"].sum(dtype=np.int64))
            size = len(self._rows)
            with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                np.savez(stream, weights=np.log1p((size - holding + 0.5) / (holding + 0.5)), mean=length / size)
        with np.load(file) as found:
            return found["weights"], float(found["mean"])

    def _score_block(self, counts: Any, weights: npt.NDArray[np.float64], mean: float, target: Path) -> None:
        words, places, times = counts["words"], counts["places"], counts["times"]
        lengths = counts["lengths"][places] / max(mean, 1e-9)
        scores = weights[words] * times / (self.k1 * (1 - self.b + self.b * lengths) + times)
        own, starts = np.unique(words, return_index=True)
        index = self._bm25s.BM25(k1=self.k1, b=self.b, backend="numpy")
        index.vocab_dict, index.nonoccurrence_array = {}, None
        index.scores = {
            "data": scores.astype(np.float32),
            "indices": places,
            "indptr": np.append(starts, len(words)).astype(np.int64),
            "num_docs": len(counts["lengths"]),
        }
        unfinished = target.with_name(f".{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        index.save(unfinished, show_progress=False)
        np.save(unfinished / "words.npy", own)
        unfinished.rename(target)

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        return self._bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)


def _scores(index: Any, words: npt.NDArray[np.int32], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return a block's scores of a question, `(passages,)`."""
    places = np.searchsorted(words, ids)
    own = places[places < len(words)]
    own = own[words[own] == ids[places < len(words)]]
    if not len(own):
        return np.zeros(int(index.scores["num_docs"]), dtype=np.float32)
    return index.get_scores_from_ids(own)


def _counts(folder: Path, number: int) -> Path:
    return folder / f"counts-{number:05d}.npz"


def _few(number: int) -> bool | None:
    return True if number < 3 else None
