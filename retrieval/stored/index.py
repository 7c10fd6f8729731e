"""An exact index on disk: every passage is scored; half, 8-bit or residual codes; commits that survive a kill.

```
folder/manifest.json            the last commit: segments, checksums (replaced in one step)
folder/segments/s000001/        files of one segment, never changed
folder/write.lock               held by the one process that commits
```
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from drdecr.modeling_drdecr import pack_embeddings
from drdecr.retrieval.protocol import Filter, Hits, check_batch, check_ids, check_search, matches

from .codecs import check_codec
from .in_memory import can_hold, check_holdable
from .manifest import MANIFEST_NAME, Manifest, SegmentRecord, file_record, write_whole
from .pooling import pool_tokens
from .ranking import rank
from .segment import Segment, id_keys
from .writer import merge_segments, write_segment

ATTEMPTS = 20
"""How often a reader looks again when a writer took away a segment between the manifest and its files."""


class StoredIndex:
    """Passages in a folder, searched exhaustively by MaxSim; opened by `create` or `open`.

    A reader sees the commit that it opened, whatever is written meanwhile; `refresh` takes it to the last one. One
    process at a time writes. What was added since the last `commit` is held in memory, in float32.
    """

    def __init__(self, folder: Path, lock: FileLock | None, verify: bool, in_memory: bool) -> None:
        self.folder, self._lock, self._verify, self._in_memory = folder, lock, verify, in_memory
        self._added: dict[str, tuple[Tensor, dict[str, Any]]] = {}
        self._deleted: dict[str, set[int]] = {}
        self._load()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        dim: int,
        codec: str = "float16",
        pool_factor: int = 1,
        about: Mapping[str, Any] | None = None,
    ) -> "StoredIndex":
        """Make an empty index and open it for writing.

        Args:
            folder: a new or empty folder; its parents are made.
            dim: width of the embeddings.
            codec: `float16` (default), `int8`, `residual4`, `residual3` or `residual2`; docs/retrieval.md has what each costs.
            pool_factor: tokens of a passage that become one (default 1: all are kept).
            about: what is to be remembered, such as the model.

        Raises:
            ValueError: for an unknown codec, or a folder that holds something else than what a killed `create` left.
        """
        check_codec(codec, dim)
        if pool_factor < 1:
            raise ValueError(f"pool_factor: expected at least 1, got {pool_factor}. 2 halves the index.")
        folder = Path(folder)
        if folder.exists() and not _is_unused(folder):
            raise ValueError(f"{folder}: expected a new or empty folder. Choose another, or open this index.")
        (folder / "segments").mkdir(parents=True, exist_ok=True)
        Manifest(0, dim, codec, pool_factor, dict(about or {})).write(folder)
        return cls.open(folder, writable=True)

    @classmethod
    def open(
        cls, folder: str | Path, writable: bool = False, verify: bool = True, in_memory: bool = False
    ) -> "StoredIndex":
        """Open the last commit.

        Args:
            folder: of the index.
            writable: for `add`, `delete`, `commit` and `compact` (default: to search).
            verify: read every file once and compare its checksum (default; about a second a GB). Sizes are always compared.
            in_memory: hold float16 or int8 tokens in memory, laid out so that scoring all of them takes 0.6 of the time, for
                1 kB a token of up to 512 dimensions (default: read the files; so it is on a machine without FBGEMM, too).

        Raises:
            FileNotFoundError: if there is no index.
            DamagedIndexError: naming each damaged file.
            ValueError: if another process is writing and `writable` is asked for; if residual codes are to be held.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)  # first, so that no lock file is left in a folder that is no index
        if in_memory:
            check_holdable(manifest.codec)
        lock = _locked(folder) if writable else None
        try:
            index = cls(folder, lock, verify, in_memory and can_hold())
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        if writable:
            index._sweep()
        return index

    def _load(self, known: Mapping[str, Segment] | None = None) -> None:
        """Open the last commit; segments that are `known` and the same stay open."""
        for attempt in range(ATTEMPTS):
            manifest = Manifest.read(self.folder)
            try:
                self.segments = [
                    self._segment(record, manifest.codec, (known or {}).get(record.name))
                    for record in manifest.segments
                ]
            except (FileNotFoundError, ValueError):
                # A writer may have made another commit since, and taken these files away.
                if attempt + 1 < ATTEMPTS and Manifest.read(self.folder).commit != manifest.commit:
                    continue
                raise
            self.manifest = manifest
            self._places: dict[str, tuple[int, int]] | None = None
            return

    def _segment(self, record: SegmentRecord, codec: str, known: Segment | None) -> Segment:
        if known is not None and known.record == record:
            return known
        return Segment(self.folder / "segments" / record.name, record, codec, self._verify, self._in_memory)

    def refresh(self) -> bool:
        """Go to the last commit and return whether there was a newer one. Not with changes that wait for a commit."""
        if self._added or self._deleted:
            raise ValueError("refresh: changes wait for a commit. Commit them first.")
        if Manifest.read(self.folder).commit == self.manifest.commit:
            return False
        self._load({segment.record.name: segment for segment in self.segments})
        return True

    def close(self) -> None:
        """Let another process write. What was not committed is forgotten."""
        self._added, self._deleted = {}, {}
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "StoredIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    @property
    def about(self) -> dict[str, Any]:
        """What was said when the index was made."""
        return self.manifest.about

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.manifest.dim

    def num_bytes(self) -> int:
        """Return the size of all files of this commit."""
        return sum(size for record in self.manifest.segments for size, _ in record.files.values())

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages, in the order of segments and of length."""
        return [
            name for segment in self.segments for name, kept in zip(segment.ids(), segment.alive, strict=True) if kept
        ]

    def places(self) -> dict[str, tuple[int, int]]:
        """Return `{passage_id: (segment, row)}`; made when it is first asked for."""
        if self._places is None:
            self._places = {
                name: (number, row)
                for number, segment in enumerate(self.segments)
                for row, name in enumerate(segment.ids())
                if segment.alive[row]
            }
        return self._places

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages; `ValueError` for one that is not there."""
        return [self.segments[number].payload(row) for number, row in self._places_of(passage_ids)]

    def embeddings(self, passage_ids: Sequence[str]) -> list[Tensor]:
        """Return the kept tokens of passages, decoded: one float32 `(tokens, dim)` each."""
        return [self.segments[number].tokens(row) for number, row in self._places_of(passage_ids)]

    def _places_of(self, passage_ids: Iterable[str]) -> list[tuple[int, int]]:
        places = self.places()
        wanted = list(passage_ids)
        unknown = next((name for name in wanted if name not in places), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is none of the {len(places)} passages of {self.folder}. Look at the id.")
        return [places[name] for name in wanted]

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages, searched after the next `commit`; one whose id is there already takes its place.

        Args:
            passage_ids: texts that are not empty and differ.
            embeddings: one `(tokens, dim)` tensor each, as `encode_documents` returns them.
            payloads: what is kept with each (default nothing): a mapping of what JSON can hold.

        Raises:
            ValueError: for other counts, ids, shapes or numbers, or an index that was opened to search.
        """
        self._needs_lock()
        check_batch(passage_ids, embeddings, payloads, self.dim)
        pooled = self._pooled(embeddings)
        for name, tokens, payload in zip(passage_ids, pooled, payloads or [{}] * len(pooled), strict=True):
            self._added[name] = (tokens, dict(payload))

    def _pooled(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        return [pool_tokens(tokens.detach().cpu().float(), self.manifest.pool_factor) for tokens in embeddings]

    def write_segment(
        self, passage_ids: Sequence[str], embeddings: Sequence[Tensor], payloads: Sequence[Mapping[str, Any]]
    ) -> SegmentRecord:
        """Write passages as a segment of no commit yet, which the process that holds the lock takes in by `commit`.

        This is how several processes write one index. The next `commit`, or the next writer that opens the index, removes a
        segment that no commit took in.

        Args:
            passage_ids: as of `add`, at least one.
            embeddings: as of `add`.
            payloads: as of `add`.

        Returns:
            The record that `commit` wants.
        """
        check_batch(passage_ids, embeddings, payloads, self.dim)
        folder = self.folder / "segments" / f"s-{uuid4().hex[:16]}"  # a name that no other process chooses
        return write_segment(folder, passage_ids, self._pooled(embeddings), payloads, self.manifest.codec)

    def delete(self, passage_ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Delete passages, found until the next `commit`.

        Args:
            passage_ids: ids; those that are not there are left out.
            where: a filter on payloads; with both, passages that meet both.

        Returns:
            How many will be gone, of the last commit and of what was added since.
        """
        self._needs_lock()
        if passage_ids is None and not where:
            raise ValueError("delete: expected ids or a filter, got neither. To delete all, remove the folder.")
        check_ids(passage_ids)
        chosen = None if passage_ids is None else set(passage_ids)
        waiting = [
            name
            for name, (_, payload) in self._added.items()
            if (chosen is None or name in chosen) and (where is None or matches(payload, where))
        ]
        for name in waiting:
            del self._added[name]
        # What waits may replace a passage that meets no filter any more, and would come back.
        gone = self._mark(chosen, where) + self._mark(waiting)
        return gone + len(waiting)

    def _mark(self, chosen: Iterable[str] | None, where: Filter | None = None) -> int:
        """Mark rows of the last commit as deleted and return how many were not yet."""
        allowed = None
        if where is not None:
            allowed = {(n, row) for n, segment in enumerate(self.segments) for row in segment.rows(where).tolist()}
        if chosen is not None:
            names = set(chosen)
            keys = id_keys(names)
            named = {(n, row) for n, segment in enumerate(self.segments) for row in segment.rows_of(names, keys)}
            allowed = named if allowed is None else allowed & named
        count = 0
        for number, row in allowed or ():
            rows = self._deleted.setdefault(self.segments[number].record.name, set())
            count += row not in rows
            rows.add(row)
        return count

    def commit(self, segments: Sequence[SegmentRecord] = ()) -> None:
        """Make what was added and deleted lasting and searchable: after a kill, all of it is there or none.

        Args:
            segments: segments that other processes wrote (`write_segment`), which become part of this commit.
        """
        self._needs_lock()
        if not self._added and not self._deleted and not segments:
            return
        folder, codec = self.folder / "segments", self.manifest.codec
        written = [Segment(folder / record.name, record, codec, verify=False).ids() for record in segments]
        self._mark(chain(self._added, *written))  # what is replaced goes in the same commit
        number = self.manifest.commit + 1
        records = [record for segment in self.segments if (record := self._with_deletions(segment, number)) is not None]
        if self._added:
            tokens, payloads = zip(*self._added.values(), strict=True)
            records.append(write_segment(folder / f"s{number:06d}", list(self._added), tokens, payloads, codec))
        self._publish(number, [*records, *segments], codec)

    def _with_deletions(self, segment: Segment, number: int) -> SegmentRecord | None:
        """Return a segment's record with what is newly deleted; None if nothing is left of it."""
        rows = self._deleted.get(segment.record.name)
        if not rows:
            return segment.record
        gone = ~segment.alive
        gone[torch.tensor(sorted(rows))] = True
        if gone.all():
            return None
        name = f"deleted-{number:06d}.npy"
        write_whole(segment.folder / name, lambda file: np.save(file, gone.nonzero()[:, 0].numpy()))
        files = {known: record for known, record in segment.record.files.items() if known != segment.record.deleted}
        return replace(segment.record, files={**files, name: file_record(segment.folder / name)}, deleted=name)

    def compact(self, codec: str | None = None) -> None:
        """Rewrite all passages as one segment, without deleted ones. Changes that wait are committed first.

        A block of tokens at a time is in memory. Residual codes are decoded and encoded again, which costs a little precision
        each time.

        Args:
            codec: which the index has from then on (default: the one that it has).

        Raises:
            ValueError: for an unknown codec, before anything is written.
        """
        self._needs_lock()
        codec = self.manifest.codec if codec is None else codec
        check_codec(codec, self.dim)
        self.commit()
        number, records = self.manifest.commit + 1, []
        if len(self):
            folder = self.folder / "segments" / f"s{number:06d}"
            records = [merge_segments(folder, self.segments, codec)]
        self._publish(number, records, codec)

    def _publish(self, number: int, records: list[SegmentRecord], codec: str) -> None:
        replace(self.manifest, commit=number, segments=records, codec=codec).write(self.folder)
        self._added, self._deleted = {}, {}
        verify, self._verify = self._verify, False  # these checksums were made a moment ago
        try:
            self._load({segment.record.name: segment for segment in self.segments})
        finally:
            self._verify = verify
        self._sweep()

    def _sweep(self) -> None:
        """Take away what belongs to no commit: of a writer that was killed, or of the commit before."""
        known = {record.name: record.files for record in self.manifest.segments}
        segments = self.folder / "segments"
        segments.mkdir(exist_ok=True)  # an empty folder is lost by who copies files alone
        for folder in segments.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in folder.iterdir():
                if file.name not in known[folder.name] and not file.is_dir():  # a folder is of another program
                    file.unlink(missing_ok=True)
        for file in self.folder.glob(f".{MANIFEST_NAME}.*.tmp"):
            file.unlink(missing_ok=True)

    def _needs_lock(self) -> None:
        if self._lock is None:
            raise ValueError(
                f"{self.folder}: opened to search. To change it, use `StoredIndex.open(..., writable=True)`."
            )

    def search(
        self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None, batch_size: int = 64
    ) -> Hits:
        """Find the passages with the highest MaxSim among all that pass the filter.

        Args:
            query_embeddings: one `(tokens, dim)` tensor a query, as `encode_queries` returns them.
            top_k: passages a query (default 10); fewer if fewer pass the filter.
            where: a filter on payloads, `{key: value}` or `{key: [values]}`.
            batch_size: queries scored at once (default 64).

        Returns:
            `Hits`, best first. Equal scores are ordered by segment, then by length, then by order of addition.
        """
        check_search(query_embeddings, top_k, batch_size, self.dim)
        rows = [segment.rows(where) for segment in self.segments]
        return self._ranked(query_embeddings, rows, top_k, batch_size)

    def rescore(self, query: Tensor, places: Sequence[Tensor], top_k: int) -> tuple[list[str], list[float]]:
        """Rank some rows of each segment for one query by MaxSim: how candidates are read exactly.

        Args:
            query: `(tokens, dim)`.
            places: for each segment, ascending rows.
            top_k: passages that are returned.

        Returns:
            Ids and scores, best first.
        """
        hits = self._ranked([query], places, top_k, 1)
        return hits.document_ids[0], hits.scores[0]

    def _ranked(self, queries: list[Tensor], places: Sequence[Tensor], top_k: int, batch_size: int) -> Hits:
        hits = Hits([], [])
        for start in range(0, len(queries), batch_size):
            packed = pack_embeddings([query.float() for query in queries[start : start + batch_size]])
            for found, scores in rank(packed, self.segments, places, top_k).best():
                hits.document_ids.append([self.segments[number].ids_of([row])[0] for number, row in found])
                hits.scores.append(scores)
        return hits


def _is_unused(folder: Path) -> bool:
    """Tell whether a folder is empty, or was being made into an index when its writer was killed."""
    if not folder.is_dir():
        return False
    segments = folder / "segments"
    left = [path for path in folder.iterdir() if path != segments and not path.match(f".{MANIFEST_NAME}.*.tmp")]
    return not left and not (segments.exists() and (segments.is_file() or any(segments.iterdir())))


def _locked(folder: Path) -> FileLock:
    lock = FileLock(os.fspath(folder / "write.lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder}: another process is writing to this index. Wait for it, or end it.") from error
    return lock
