"""One collection in several indexes: each shard is asked, the best of all are the answer; as one index would give it."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .codecs import check_codec
from .exact import Hits
from .manifest import NAME as INDEX_NAME
from .manifest import Manifest
from .protocol import Where, check_batch, check_ids, check_search
from .shard_manifest import NAME as SHARDS_NAME
from .shard_manifest import (
    ShardManifest,
    about_shard,
    collect_shards,
    document_of,
    plan_shards,
    shard_folder,
    shard_manifests,
    shard_of,
    shards_ahead,
)
from .stored import StoredIndex

logger = logging.getLogger(__name__)

Calls = Mapping[int, tuple[Any, ...]]
"""For the number of a shard, the arguments of a method of it."""


class Shards(Protocol):
    """Where shards are held: in this process, or by workers (`ray_shards`)."""

    def ask(self, method: str, calls: Calls) -> dict[int, Any]:
        """Call a method of some shards and return what each says, by its number."""
        ...

    def close(self) -> None:
        """Let go of the shards."""
        ...


class LocalShards:
    """Shards held by this process, asked one after another.

    Args:
        indexes: by their numbers.
    """

    def __init__(self, indexes: Mapping[int, Any]) -> None:
        self.indexes = indexes

    def ask(self, method: str, calls: Calls) -> dict[int, Any]:
        """Call a method of some shards."""
        return {number: getattr(self.indexes[number], method)(*arguments) for number, arguments in calls.items()}

    def close(self) -> None:
        """Close those that can be closed."""
        for index in self.indexes.values():
            if hasattr(index, "close"):
                index.close()


class ShardedIndex:
    """Passages spread over shards by their documents' ids; a `PassageIndex`.

    Each shard commits whole or not at all, and holds its documents whole. After a kill between two shards' commits some are
    newer than others: `open` says so, and what was being done is done again to finish it.

    Args:
        shards: that hold them.
        num_shards: how many.
        dim: width of the embeddings.
        about: what the index remembers.
        folder: where they are; None for shards that are not collected in a folder.
    """

    def __init__(
        self, shards: Shards, num_shards: int, dim: int, about: Mapping[str, Any], folder: Path | None = None
    ) -> None:
        self.shards, self.num_shards, self.dim, self.about, self.folder = shards, num_shards, dim, dict(about), folder

    @classmethod
    def create(
        cls,
        folder: str | Path,
        dim: int,
        num_shards: int,
        codec: str = "float16",
        pool_factor: int = 1,
        about: Mapping[str, Any] | None = None,
    ) -> "ShardedIndex":
        """Make empty shards and open them for writing; arguments as of `StoredIndex.create`.

        Raises:
            ValueError: for a folder that holds something else than what a killed `create` left, an unknown codec or no shard.
        """
        folder = Path(folder)
        check_codec(codec, dim)
        begun = (folder / SHARDS_NAME).is_file() and not ShardManifest.read(folder).shards
        if folder.exists() and any(folder.iterdir()) and not begun:
            raise ValueError(f"{folder}: expected a new or empty folder. Choose another, or open these shards.")
        plan = plan_shards(folder, num_shards, about or {})
        for number in range(num_shards):
            own, remembered = shard_folder(folder, number), about_shard(plan.about, number, num_shards)
            if not (own / INDEX_NAME).is_file():
                StoredIndex.create(own, dim, codec, pool_factor, remembered).close()
        collect_shards(folder)
        return cls.open(folder, writable=True)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        writable: bool = False,
        verify: bool = True,
        open_shard: Callable[[Path], Any] | None = None,
        workers: int = 1,
    ) -> "ShardedIndex":
        """Open the last commit of every shard.

        Args:
            folder: of the shards.
            writable: for `add`, `delete`, `commit` and `compact` (default: to search).
            verify: compare the checksums of all files.
            open_shard: opens one shard of a search in another way than exactly, such as with candidates; default:
                `StoredIndex.open`.
            workers: processes that hold the shards (default 1: this one; more need Ray).

        Raises:
            FileNotFoundError: if there are no shards.
            DamagedIndexError: naming what is damaged.
            ValueError: if they are not all made, or do not fit together; for several workers that write.
        """
        folder = Path(folder)
        plan = ShardManifest.read(folder)
        found = check_collected(folder, warn=not writable)
        opener: Callable[[Path], Any] = open_shard or partial(StoredIndex.open, writable=writable, verify=verify)
        shards: Shards
        if workers > 1:
            from .ray_shards import RayShards

            if writable:
                raise ValueError("Expected one worker to write, several search. Leave `workers` out.")
            shards = RayShards(opener, [shard_folder(folder, number) for number in range(plan.num_shards)], workers)
        else:
            shards = _opened(opener, folder, plan.num_shards)
        return cls(shards, plan.num_shards, found[0].dim, plan.about, folder)

    def close(self) -> None:
        """Let others write; workers end."""
        self.shards.close()

    def __enter__(self) -> "ShardedIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        found = self.shards.ask(method, dict.fromkeys(range(self.num_shards), arguments))
        return [found[number] for number in range(self.num_shards)]

    def _by_shard(self, passage_ids: Iterable[str]) -> dict[int, list[int]]:
        """Return, for each shard that has any, the positions of its passages."""
        places: dict[int, list[int]] = {}
        for position, name in enumerate(passage_ids):
            places.setdefault(shard_of(document_of(str(name)), self.num_shards), []).append(position)
        return places

    def __len__(self) -> int:
        return sum(self._all("__len__"))

    def num_bytes(self) -> int:
        """Return the size of all files of all shards."""
        return sum(self._all("num_bytes"))

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages, shard after shard."""
        return [name for own in self._all("passage_ids") for name in own]

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages; `ValueError` for one that is not there."""
        return self._of_passages("payloads", passage_ids)

    def embeddings(self, passage_ids: Sequence[str]) -> list[Tensor]:
        """Return the kept tokens of passages, decoded: one float32 `(tokens, dim)` each."""
        return self._of_passages("embeddings", passage_ids)

    def _of_passages(self, method: str, passage_ids: Sequence[str]) -> list[Any]:
        places = self._by_shard(passage_ids)
        calls = {number: ([passage_ids[place] for place in own],) for number, own in places.items()}
        answers = self.shards.ask(method, calls)
        found: list[Any] = [None] * len(passage_ids)
        for number, own in places.items():
            for place, answer in zip(own, answers[number], strict=True):
                found[place] = answer
        return found

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages, searched after the next `commit`; arguments as of `StoredIndex.add`.

        A passage belongs to the shard of its id without `#number` at the end.
        """
        check_batch(passage_ids, embeddings, payloads, self.dim)  # of all, before any shard takes some
        given = list(payloads) if payloads is not None else [{}] * len(passage_ids)
        columns: tuple[Sequence[Any], ...] = (passage_ids, embeddings, given)
        calls = {
            number: tuple([column[place] for place in own] for column in columns)
            for number, own in self._by_shard(passage_ids).items()
        }
        self.shards.ask("add", calls)

    def delete(self, passage_ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete passages by id or by payload, found until the next `commit`, and return how many."""
        check_ids(passage_ids)
        if passage_ids is None:
            return sum(self._all("delete", None, where))
        places = self._by_shard(passage_ids)
        calls = {number: ([passage_ids[place] for place in own], where) for number, own in places.items()}
        return sum(self.shards.ask("delete", calls).values())

    def commit(self) -> None:
        """Commit shard after shard, then write down that all have."""
        self._all("commit")
        if self.folder is not None:
            collect_shards(self.folder)

    def compact(self, codec: str | None = None) -> None:
        """Rewrite every shard as one segment, without deleted passages."""
        self._all("compact", codec)
        if self.folder is not None:
            collect_shards(self.folder)

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find the passages with the highest MaxSim of all shards; arguments as of `StoredIndex.search`.

        Equal scores are ordered by shard, within one as it orders them.
        """
        check_search(query_embeddings, top_k, 1, self.dim)
        return merge_hits(self._all("search", query_embeddings, top_k, where), top_k)


def check_collected(folder: Path, warn: bool = True) -> list[Manifest]:
    """Return the manifests of shards that fit together and were collected.

    Args:
        folder: of the shards.
        warn: of shards that are newer than when they were collected.

    Raises:
        DamagedIndexError: naming a shard that is older than its record, or another.
        ValueError: if they are not all made, or do not fit together.
    """
    plan = ShardManifest.read(folder)
    found = shard_manifests(folder, plan)
    ahead = shards_ahead(folder, plan, found)
    if ahead and warn:
        logger.warning(
            "%s: shards %s are newer than %s says: an update is under way, or was killed and wants the same command again.",
            folder,
            ", ".join(map(str, ahead)),
            SHARDS_NAME,
        )
    return found


def merge_hits(found: Sequence[Hits], top_k: int) -> Hits:
    """Merge what shards found for the same queries.

    Args:
        found: of each shard, at least its own `top_k` best for each query.
        top_k: passages a query.
    """
    merged = Hits([], [])
    for rows in zip(*(zip(hits.document_ids, hits.scores, strict=True) for hits in found), strict=True):
        pairs = [pair for ids, scores in rows for pair in zip(ids, scores, strict=True)]
        pairs = sorted(pairs, key=lambda pair: -pair[1])[:top_k]  # stable: equal scores stay in the order of shards
        merged.document_ids.append([name for name, _ in pairs])
        merged.scores.append([score for _, score in pairs])
    return merged


def _opened(opener: Callable[[Path], Any], folder: Path, num_shards: int) -> LocalShards:
    indexes: dict[int, Any] = {}
    try:
        for number in range(num_shards):
            indexes[number] = opener(shard_folder(folder, number))
    except BaseException:
        LocalShards(indexes).close()
        raise
    return LocalShards(indexes)
