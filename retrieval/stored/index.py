"""An exact index on disk: every passage is scored; half, 8-bit or residual codes; commits that survive a kill.

```
folder/manifest.json            the last commit: segments, checksums (replaced in one step)
folder/segments/s000001/        files of one segment, never changed
folder/write.lock               held by the one process that commits
```
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from drdecr.modeling_drdecr import pack_embeddings
from drdecr.retrieval.protocol import (
    Filter,
    Hits,
    check_batch,
    check_ids,
    check_json,
    check_search,
    filter_values,
)

from .changes import PendingChanges
from .codecs import check_codec
from .in_memory import can_pack, check_packable
from .manifest import (
    Manifest,
    SegmentRecord,
    check_conflict,
    is_unused,
    lock_folder,
    new_segment_folder,
    remove_leftovers,
)
from .pooling import pool_tokens
from .ranking import rank
from .segment import Segment
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
        self._changes = PendingChanges()
        self._load()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        dim: int,
        codec: str = "float16",
        pool_factor: int = 1,
        metadata: Mapping[str, Any] | None = None,
        precision: str = "float32",
    ) -> "StoredIndex":
        """Make an empty index and open it for writing.

        Args:
            folder: a new or empty folder; its parents are made.
            dim: width of the embeddings.
            codec: `float16` (default), `int8`, `residual4`, `residual3` or `residual2`; docs/retrieval.md has what each costs.
            pool_factor: tokens of a passage that become one (default 1: all are kept).
            metadata: what is to be remembered, such as the model: what JSON can hold.
            precision: in which the model encodes the passages (default float32); it is remembered.

        Raises:
            ValueError: for an unknown codec, numbers that are none, or a folder that holds something else than what a killed
                `create` left.
        """
        check_json("metadata: expected something", {} if metadata is None else metadata)
        manifest = Manifest(0, dim, codec, pool_factor, precision, dict(metadata or {}))
        manifest.check()
        folder = Path(folder)
        if folder.exists() and not is_unused(folder):
            raise ValueError(f"{folder}: expected a new or empty folder. Choose another, or open this index.")
        (folder / "segments").mkdir(parents=True, exist_ok=True)
        manifest.write(folder)
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
            in_memory: copy float16 or int8 tokens to memory, laid out so that scoring all of them takes 0.6 of the time, for
                1 kB a token of up to 512 dimensions (default: read the files; so it is on a machine without FBGEMM, too).

        Raises:
            FileNotFoundError: if there is no index.
            DamagedIndexError: naming each damaged file.
            ValueError: for `writable`, if another process is writing or a part of the index is a link; for `in_memory`, if its
                codes are residual.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)  # first, so that no lock file is left in a folder that is no index
        if in_memory:
            check_packable(manifest.codec)
        lock = lock_folder(folder) if writable else None
        try:
            index = cls(folder, lock, verify, in_memory and can_pack())
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        if writable:
            remove_leftovers(folder, index.manifest)
        return index

    def _load(self, known: Mapping[str, Segment] | None = None) -> None:
        """Open the last commit; segments that are `known` and the same stay open."""
        for attempt in range(ATTEMPTS):
            manifest = Manifest.read(self.folder)
            try:
                self.segments = [
                    self._segment(record, manifest, (known or {}).get(record.name)) for record in manifest.segments
                ]
            except (FileNotFoundError, ValueError):
                # A writer may have made another commit since, and taken these files away.
                if attempt + 1 < ATTEMPTS and Manifest.read(self.folder).commit != manifest.commit:
                    continue
                raise
            self.manifest = manifest
            self._places: dict[str, tuple[int, int]] | None = None
            return

    def _segment(self, record: SegmentRecord, manifest: Manifest, known: Segment | None) -> Segment:
        if known is not None and known.record == record:
            return known
        folder = self.folder / "segments" / record.name
        return Segment(folder, record, manifest.dim, manifest.codec, self._verify, self._in_memory)

    def refresh(self) -> bool:
        """Go to the last commit and return whether there was a newer one. Not with pending changes."""
        if self._changes:
            raise ValueError("refresh: changes are pending. Commit them first.")
        if Manifest.read(self.folder).commit == self.manifest.commit:
            return False
        self._load({segment.record.name: segment for segment in self.segments})
        return True

    def close(self) -> None:
        """Let another process write. What was not committed is forgotten."""
        self._changes = PendingChanges()
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
    def metadata(self) -> dict[str, Any]:
        """What was said when the index was made."""
        return self.manifest.metadata

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.manifest.dim

    def num_bytes(self) -> int:
        """Return the size of all files of this commit."""
        return sum(size for record in self.manifest.segments for size, _ in record.files.values())

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages, in the order of segments and of length."""
        rows = (zip(segment.table.ids(), segment.alive, strict=True) for segment in self.segments)
        return [name for name, is_alive in chain.from_iterable(rows) if is_alive]

    def places(self) -> dict[str, tuple[int, int]]:
        """Return `{passage_id: (segment, row)}`; made when it is first asked for."""
        if self._places is None:
            self._places = {
                name: (number, row)
                for number, segment in enumerate(self.segments)
                for row, name in enumerate(segment.table.ids())
                if segment.alive[row]
            }
        return self._places

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages; `ValueError` for one that is not there."""
        return [self.segments[number].table.payload(row) for number, row in self._places_of(passage_ids)]

    def embeddings(self, passage_ids: Sequence[str]) -> list[Tensor]:
        """Return the stored tokens of passages, decoded: one float32 `(tokens, dim)` each."""
        return [self.segments[number].tokens(row) for number, row in self._places_of(passage_ids)]

    def _places_of(self, passage_ids: Sequence[str]) -> list[tuple[int, int]]:
        check_ids(passage_ids)
        self.check_unchanged()
        places = self.places()
        unknown = next((name for name in passage_ids if name not in places), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is none of the {len(places)} passages of {self.folder}. Look at the id.")
        return [places[name] for name in passage_ids]

    def check_unchanged(self) -> None:
        """Raise `DamagedIndexError` if a file was written to in place since it was opened."""
        for segment in self.segments:
            segment.check_unchanged()

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages, searched after the next `commit`; one whose id is in the index already takes its place.

        Args:
            passage_ids: texts that are not empty and differ.
            embeddings: one `(tokens, dim)` tensor each, as `encode_documents` returns them.
            payloads: what is stored with each (default nothing): a mapping of what JSON can hold.

        Raises:
            ValueError: for other counts, ids, shapes or numbers, or an index that was opened to search.
        """
        self._needs_lock()
        check_batch(passage_ids, embeddings, payloads, self.dim)
        self._changes.add(passage_ids, self._pooled(embeddings), payloads or [{}] * len(passage_ids))

    def _pooled(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        # Copies: what a caller changes later was not checked.
        copies = [tokens.detach().to("cpu", torch.float32, copy=True) for tokens in embeddings]
        return [pool_tokens(tokens, self.manifest.pool_factor) for tokens in copies]

    def write_segment(
        self, passage_ids: Sequence[str], embeddings: Sequence[Tensor], payloads: Sequence[Mapping[str, Any]]
    ) -> SegmentRecord:
        """Write passages as a segment of no commit yet, which the process that holds the lock takes in by `commit`.

        So several processes write one index. The next commit, or the next writer, removes a segment that no commit took in.

        Args:
            passage_ids: as of `add`, at least one.
            embeddings: as of `add`.
            payloads: as of `add`.

        Returns:
            The record that `commit` takes.
        """
        check_batch(passage_ids, embeddings, payloads, self.dim)
        folder = new_segment_folder(self.folder, self.manifest.commit + 1, is_shared=True)
        return write_segment(folder, passage_ids, self._pooled(embeddings), payloads, self.manifest.codec)

    def delete(self, passage_ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Delete passages, which are searched until the next `commit`.

        Args:
            passage_ids: ids; those that are not in the index are left out.
            where: a filter on payloads; with both, passages that meet both.

        Returns:
            How many will be deleted, of the last commit and of what was added since.
        """
        self._needs_lock()
        if passage_ids is None and not where:
            raise ValueError("delete: expected ids or a filter, got neither. To delete all, remove the folder.")
        if passage_ids is not None:
            check_ids(passage_ids)
        ids = None if passage_ids is None else set(passage_ids)
        return self._changes.delete(self.segments, ids, filter_values(where))

    def commit(self, segments: Sequence[SegmentRecord] = ()) -> None:
        """Make what was added and deleted lasting and searchable: after a kill, all of it is there or none.

        Args:
            segments: segments that other processes wrote (`write_segment`), which become part of this commit.
        """
        self._needs_lock()
        if not self._changes and not segments:
            return
        # Before a file is written, too: another commit may have one of the same name.
        check_conflict(self.folder, self.manifest)
        changes, number, codec = self._changes, self.manifest.commit + 1, self.manifest.codec
        folder = self.folder / "segments"
        written = [Segment(folder / record.name, record, self.dim, codec, verify=False) for record in segments]
        # What is replaced goes in the same commit.
        changes.mark(self.segments, chain(changes.added, *(segment.table.ids() for segment in written)))
        deleted = (changes.write_deletions(segment, number) for segment in self.segments)
        records = [record for record in deleted if record is not None]
        if changes.added:
            tokens, payloads = zip(*changes.added.values(), strict=True)
            target = new_segment_folder(self.folder, number)
            records.append(write_segment(target, list(changes.added), tokens, payloads, codec))
        self._publish([*records, *segments], codec)

    def compact(self, codec: str | None = None) -> None:
        """Rewrite all passages as one segment, without deleted ones. Pending changes are committed first.

        A block of tokens at a time is in memory. Residual codes are coded again, which costs a little precision each time.

        Args:
            codec: which the index has from then on (default: the one that it has).

        Raises:
            ValueError: for an unknown codec, before anything is written.
        """
        self._needs_lock()
        codec = self.manifest.codec if codec is None else codec
        check_codec(codec, self.dim)
        self.commit()
        records = []
        if len(self):
            target = new_segment_folder(self.folder, self.manifest.commit + 1)
            records.append(merge_segments(target, self.segments, codec))
        self._publish(records, codec)

    def _publish(self, records: list[SegmentRecord], codec: str) -> None:
        check_conflict(self.folder, self.manifest, records)
        commit = self.manifest.commit + 1
        replace(self.manifest, commit=commit, segments=records, codec=codec).write(self.folder)
        self._changes = PendingChanges()
        verify, self._verify = self._verify, False  # these checksums were made a moment ago
        try:
            self._load({segment.record.name: segment for segment in self.segments})
        finally:
            self._verify = verify
        remove_leftovers(self.folder, self.manifest)

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
        values_by_key = filter_values(where)
        self.check_unchanged()
        rows = [segment.rows(values_by_key) for segment in self.segments]
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
            for best_places, scores in rank(packed, self.segments, places, top_k).best():
                hits.document_ids.append([self.segments[number].table.ids_of([row])[0] for number, row in best_places])
                hits.scores.append(scores)
        return hits
