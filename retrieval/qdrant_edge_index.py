"""Qdrant's engine inside this process (`qdrant-edge-py`): native MaxSim, a write-ahead log, one folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .exact import Hits
from .manifest import DamagedIndexError, write_whole
from .protocol import Where, check_search
from .qdrant_common import ID_KEY, IDS_A_CALL, VECTOR, PointIndex, filter_of, missing_extra

PASSAGES_A_CALL = 256
SETTINGS, SHARD, MAKING = "qdrant.json", "shard", "shard.making"
"""What a folder of this engine holds; the last until the first two are there."""
ENGINE_SETTINGS = "edge_config.json"
"""The engine's own, in its shard."""


class QdrantEdgeIndex(PointIndex):
    """A Qdrant shard as a `PassageIndex`. Every passage is scored, in half precision.

    What is added is searched at once and written by `commit`; of a process that is killed in between, any part of it may
    be there.
    """

    def __init__(self, shard: Any, dim: int, about: Mapping[str, Any] | None = None) -> None:
        super().__init__(dim, _edge(), "the folder", PASSAGES_A_CALL)
        self._shard, self.about = shard, dict(about or {})

    @classmethod
    def create(cls, folder: str | Path, dim: int, about: Mapping[str, Any] | None = None) -> "QdrantEdgeIndex":
        """Make an empty index of width `dim` in a new or empty folder; `about` is remembered.

        Raises:
            ImportError: without `qdrant-edge-py`.
            ValueError: if the folder holds something.
        """
        edge, folder = _edge(), Path(folder)
        if folder.exists() and not _is_unused(folder):
            raise ValueError(f"{folder}: expected a new or empty folder. Choose another, or open this index.")
        for left in (SHARD, MAKING):  # of a process that was killed here
            shutil.rmtree(folder / left, ignore_errors=True)
        (folder / MAKING).mkdir(parents=True)
        vectors = edge.EdgeVectorParams(
            size=dim,
            distance=edge.Distance.Dot,  # tokens have length 1; pooled ones too
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=edge.VectorStorageDatatype.Float16,
        )
        edge.EdgeShard.create(str(folder / MAKING), edge.EdgeConfig(vectors={VECTOR: vectors})).close()
        (folder / MAKING).rename(folder / SHARD)
        settings: dict[str, Any] = {"dim": dim, "about": dict(about or {})}
        write_whole(folder / SETTINGS, lambda file: file.write(json.dumps(settings).encode()))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "QdrantEdgeIndex":
        """Open an index, to search and to change it.

        Raises:
            ImportError: without `qdrant-edge-py`.
            FileNotFoundError: if there is none.
            DamagedIndexError: if its settings are damaged.
            ValueError: if another process has it open, or the engine cannot read it.
        """
        settings, edge = Path(folder) / SETTINGS, _edge()
        if not settings.is_file():
            raise FileNotFoundError(f"{folder}: expected an index of Qdrant, found no {SETTINGS}. Create one.")
        dim, about = _settings_of(settings)
        try:
            shard = edge.EdgeShard.load(str(Path(folder) / SHARD))
        except Exception as error:  # the engine raises nothing narrower
            if "WouldBlock" in str(error):
                raise ValueError(
                    f"{folder}: another process has this index of Qdrant open. Wait for it, or end it."
                ) from error
            raise ValueError(
                f"{folder}: Qdrant's engine cannot open it ({error}). Remove the folder and make it again."
            ) from error
        return cls(shard, dim, about)

    def __enter__(self) -> "QdrantEdgeIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._shard.count(self._models.CountRequest())

    def _points(
        self, ids: Sequence[str], embeddings: Sequence[Tensor], payloads: Sequence[dict[str, Any]]
    ) -> list[Any]:
        rows = zip(ids, embeddings, payloads, strict=True)
        return [self._point(one, {VECTOR: tokens.tolist()} if len(tokens) else {}, own) for one, tokens, own in rows]

    def _point(self, one: str, vectors: dict[str, Any], payload: dict[str, Any]) -> Any:
        try:
            return self._models.Point(one, vectors, payload)
        except TypeError as error:
            raise ValueError(
                f"Passage {payload[ID_KEY]!r}: Qdrant's engine keeps no NaN, no infinity and no half surrogate pairs. Take them "
                "out of its id and payload."
            ) from error

    def _upsert(self, points: list[Any]) -> None:
        self._shard.update(self._models.UpdateOperation.upsert_points(points))

    def _has_id(self, ids: list[str]) -> Any:
        return self._models.HasIdCondition(set(ids))

    def _delete(self, wanted: Any) -> None:
        self._shard.update(self._models.UpdateOperation.delete_points_by_filter(wanted))

    def _records(self, ids: list[str]) -> list[Any]:
        return self._shard.retrieve(ids, with_payload=True, with_vector=False)

    def _some_ids(self, offset: Any) -> tuple[list[Any], Any]:
        return self._shard.scroll(
            self._models.ScrollRequest(offset=offset, limit=IDS_A_CALL, with_payload=[ID_KEY], with_vector=False)
        )

    def commit(self) -> None:
        """Force everything to the disk."""
        self._shard.flush()

    def close(self) -> None:
        """Release the folder."""
        self._shard.close()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find the passages with the highest MaxSim; a query without a token finds nothing."""
        check_search(query_embeddings, top_k, 1, self.dim)
        hits, top_k = Hits([], []), min(top_k, max(len(self), 1))  # the engine counts to 2 ** 64
        for tokens in query_embeddings:
            found = self._nearest(tokens, top_k, filter_of(where, self._models)) if len(tokens) else []
            hits.document_ids.append([point.payload[ID_KEY] for point in found])
            hits.scores.append([point.score for point in found])
        return hits

    def _nearest(self, tokens: Tensor, top_k: int, wanted: Any) -> list[Any]:
        edge = self._models
        return self._shard.query(
            edge.QueryRequest(
                limit=top_k,
                query=edge.Query.Nearest(tokens.tolist(), using=VECTOR),
                filter=wanted,
                with_payload=[ID_KEY],
                params=edge.SearchParams(exact=True),
            )
        )


def _settings_of(path: Path) -> tuple[int, dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
        return int(content["dim"]), dict(content["about"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedIndexError(
            f"{path}: damaged, or no settings of an index. Restore it from a copy, or remove the folder and make it again."
        ) from error


def _is_unused(folder: Path) -> bool:
    """Tell whether a folder is empty, or was being made into an index when its process ended."""
    if not folder.is_dir():
        return False
    shard = folder / SHARD
    left = [path for path in folder.iterdir() if path.name not in (SHARD, MAKING)]
    left = [path for path in left if not path.match(f".{SETTINGS}.*.tmp")]
    return not left and (not shard.exists() or _holds_nothing(shard))


def _holds_nothing(shard: Path) -> bool:
    """Tell whether a shard without settings, which may be somebody else's, is one that was just being made."""
    if not (shard / ENGINE_SETTINGS).is_file():  # the engine writes into any folder that it is to load
        return shard.is_dir() and not any(shard.iterdir())
    edge = _edge()
    try:
        opened = edge.EdgeShard.load(str(shard))
    except Exception:  # noqa: BLE001  # the engine raises nothing narrower
        return False
    count = opened.count(edge.CountRequest())
    opened.close()
    return count == 0


def _edge() -> Any:
    try:
        import qdrant_edge
    except ImportError as error:
        raise ImportError(missing_extra("qdrant-edge-py")) from error
    return qdrant_edge
