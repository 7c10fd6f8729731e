"""Candidates by one vector a passage (`muvera.py`) over faiss; kept beside the index that they belong to.

```
folder/muvera.json   which commit, encoding and factory, checksum of the vectors' file
folder/vectors.faiss
```
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .manifest import DamagedIndexError, file_record, write_whole
from .muvera import FixedDimensionalEncoding
from .protocol import Where
from .ragged import places_of_tokens
from .stored import StoredIndex

logger = logging.getLogger(__name__)

PASSAGES_A_BLOCK = 512
DEFAULT_FACTORY = "SQ8"
"""All vectors, 8 bit a number: 5 kB a passage. `PQ256x8` takes 256 bytes; `IVF1024,PQ256x8` looks at a part of them."""
AGAIN = "Make it again: `drdecr index INDEX --muvera`."


class MuveraCandidates:
    """Vectors of all passages of one commit in a faiss index.

    Args:
        index: opened at that commit.
        encoding: that the vectors were made with.
        vectors: the faiss index, whose ids count the passages that are not deleted, segment after segment.
    """

    def __init__(self, index: StoredIndex, encoding: FixedDimensionalEncoding, vectors: Any) -> None:
        self.index, self.encoding, self.vectors = index, encoding, vectors
        self._rows = [segment.rows() for segment in index.segments]
        self._starts = np.cumsum([0, *(len(rows) for rows in self._rows)])

    @classmethod
    def build(
        cls,
        index: StoredIndex,
        folder: str | Path,
        factory: str = DEFAULT_FACTORY,
        encoding: FixedDimensionalEncoding | None = None,
        training_passages: int = 20_000,
    ) -> "MuveraCandidates":
        """Encode all passages and keep the vectors in a folder.

        Args:
            index: whose last commit is encoded.
            folder: is made; what it holds of an earlier commit is replaced.
            factory: faiss's description of the index (default: every vector in 8 bit).
            encoding: default: `FixedDimensionalEncoding(dim)`.
            training_passages: that faiss learns its quantiser from.

        Raises:
            ImportError: without faiss.
            ValueError: for an index without passages, or a factory that faiss does not know or cannot train on so few.
        """
        encoding = encoding or FixedDimensionalEncoding(index.manifest.dim)
        if not len(index):
            raise ValueError("MuveraCandidates: expected an index with passages, got none. Add some and commit.")
        vectors = empty_vectors(encoding, factory)
        try:
            blocks = _vectors(index, encoding)
            first: list[np.ndarray] = []
            while sum(map(len, first)) < training_passages and (block := next(blocks, None)) is not None:
                first.append(block)
            vectors.train(np.concatenate(first))
            for block in (*first, *blocks):
                vectors.add(block)
        except RuntimeError as error:
            raise _refused(factory, error) from error
        _write(Path(folder), index, encoding, vectors, factory)
        return cls(index, encoding, vectors)

    @classmethod
    def open_or_build(cls, index: StoredIndex, folder: Path, factory: str = DEFAULT_FACTORY) -> "MuveraCandidates":
        """Open the vectors that a folder keeps of this commit and factory, or make them; arguments and errors of `build`."""
        file = folder / "muvera.json"
        try:
            content = _content_of(file) if file.exists() else {}
            if content.get("commit") == index.manifest.commit and content.get("factory") == factory:
                return cls.open(index, folder)
        except DamagedIndexError as error:
            logger.warning("%s", error)
        return cls.build(index, folder, factory)

    @classmethod
    def open(cls, index: StoredIndex, folder: str | Path) -> "MuveraCandidates":
        """Open kept vectors.

        Raises:
            FileNotFoundError: if there are none.
            DamagedIndexError: if a file was changed.
            ValueError: if they belong to another commit than the one that `index` is at.
        """
        faiss, folder = _faiss(), Path(folder)
        content = _content_of(folder / "muvera.json")
        if content["commit"] != index.manifest.commit:
            raise ValueError(
                f"{folder}: made for commit {content['commit']}, the index is at {index.manifest.commit}. Make it again: "
                "`drdecr index INDEX --muvera`."
            )
        vectors = folder / "vectors.faiss"
        if not vectors.is_file() or file_record(vectors) != content["file"]:
            raise DamagedIndexError(f"{vectors}: missing or damaged, its checksum is another. {AGAIN}")
        encoding = FixedDimensionalEncoding(**content["encoding"])
        return cls(index, encoding, faiss.read_index(str(vectors)))

    def candidates(self, query: Tensor, count: int, where: Where | None) -> list[Tensor]:
        """Return for each segment the rows among the `count` best by one vector."""
        options: Mapping[str, Any] = {} if where is None else {"params": self._parameters(where)}
        _, found = self.vectors.search(self.encoding.queries([query]).numpy(), min(count, len(self.index)), **options)
        numbers = np.sort(found[0][found[0] >= 0])
        bounds = np.searchsorted(numbers, self._starts)
        return [
            rows[torch.from_numpy(numbers[low:high] - start)]
            for rows, low, high, start in zip(self._rows, bounds[:-1], bounds[1:], self._starts[:-1], strict=True)
        ]

    def _parameters(self, where: Where) -> Any:
        faiss = _faiss()
        allowed = [
            torch.isin(rows, segment.rows(where)).nonzero()[:, 0].numpy() + start
            for segment, rows, start in zip(self.index.segments, self._rows, self._starts[:-1], strict=True)
        ]
        selector = faiss.IDSelectorBatch(np.concatenate(allowed))
        if isinstance(self.vectors, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=selector, nprobe=self.vectors.nprobe)
        return faiss.SearchParameters(sel=selector)


def empty_vectors(encoding: FixedDimensionalEncoding, factory: str) -> Any:
    """Return a faiss index for vectors of an encoding.

    Raises:
        ImportError: without faiss.
        ValueError: for a factory that faiss does not know.
    """
    faiss = _faiss()
    try:
        return faiss.index_factory(encoding.width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise _refused(factory, error) from error


def _refused(factory: str, error: RuntimeError) -> ValueError:
    return ValueError(f"faiss, {factory!r}: {str(error).splitlines()[-1]}. Choose another factory.")


def _vectors(index: StoredIndex, encoding: FixedDimensionalEncoding) -> Any:
    for segment in index.segments:
        for rows in segment.rows().split(PASSAGES_A_BLOCK):
            lengths = segment.lengths(rows)
            tokens = segment.decoded(places_of_tokens(segment.offsets[rows], lengths.numpy()))
            yield encoding.documents(list(tokens.split(lengths.tolist()))).numpy()


def _write(folder: Path, index: StoredIndex, encoding: FixedDimensionalEncoding, vectors: Any, factory: str) -> None:
    faiss = _faiss()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "muvera.json").unlink(missing_ok=True)  # without it the vectors count as not there
    # A callback, for a second copy of all vectors would not fit where the first one just did.
    write_whole(folder / "vectors.faiss", lambda file: faiss.write_index(vectors, faiss.PyCallbackIOWriter(file.write)))
    content = {
        "commit": index.manifest.commit,
        "encoding": asdict(encoding),
        "factory": factory,
        "file": file_record(folder / "vectors.faiss"),
    }
    made = {**content, "sha256": _digest_of(content)}
    write_whole(folder / "muvera.json", lambda file: file.write(json.dumps(made, indent=1).encode()))


def _content_of(path: Path) -> dict[str, Any]:
    """Read `muvera.json`; `DamagedIndexError` if it is none, or was changed. Those of before have no checksum."""
    try:
        content = json.loads(path.read_bytes())
        if content.pop("sha256", None) not in (None, _digest_of(content)):
            raise KeyError("sha256")
        if not {"commit", "encoding", "factory", "file"} <= content.keys():
            raise KeyError("commit")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedIndexError(f"{path}: damaged, or no description of vectors. {AGAIN}") from error
    return content


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("Candidates by MUVERA need faiss: `pip install drdecr[faiss]`.") from error
    return faiss
