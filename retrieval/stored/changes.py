"""What the next commit of an index will change: passages that were added, and rows that were deleted or replaced."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drdecr.retrieval.protocol import matches

from .manifest import SegmentRecord, file_record, write_whole
from .passage_table import id_keys
from .segment import Segment


class PendingChanges:
    """Changes to the segments of the last commit, in memory."""

    def __init__(self) -> None:
        self.added: dict[str, tuple[Tensor, dict[str, Any]]] = {}
        self.deleted_rows: dict[str, set[int]] = {}

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted_rows)

    def add(self, passage_ids: Sequence[str], tokens: Sequence[Tensor], payloads: Sequence[Mapping[str, Any]]) -> None:
        """Add passages, of which later ones replace earlier ones. Payloads are copied: what a caller changes was not checked."""
        for name, embeddings, payload in zip(passage_ids, tokens, payloads, strict=True):
            self.added[name] = (embeddings, json.loads(json.dumps(dict(payload))))

    def delete(
        self, segments: Sequence[Segment], ids: set[str] | None, values_by_key: Mapping[str, frozenset[Any]]
    ) -> int:
        """Delete passages with some of the ids that pass a filter, of the last commit and of those added; return how many."""
        pending = [
            name
            for name, (_, payload) in self.added.items()
            if (ids is None or name in ids) and matches(payload, values_by_key)
        ]
        for name in pending:
            del self.added[name]
        # What is pending may replace a passage that meets no filter any more, and would come back.
        return self.mark(segments, ids, values_by_key) + self.mark(segments, pending) + len(pending)

    def mark(
        self, segments: Sequence[Segment], ids: Iterable[str] | None, values_by_key: Mapping[str, Any] | None = None
    ) -> int:
        """Mark rows of the last commit as deleted and return how many were not yet."""
        names = None if ids is None else set(ids)
        keys = id_keys(names or ())
        count = 0
        for segment in segments:
            rows = set(segment.rows(values_by_key).tolist()) if values_by_key or names is None else None
            if names is not None:
                named = {row for row in segment.table.rows_named(names, keys) if segment.alive[row]}
                rows = named if rows is None else rows & named
            if rows:
                marked = self.deleted_rows.setdefault(segment.record.name, set())
                count += len(rows - marked)
                marked |= rows
        return count

    def write_deletions(self, segment: Segment, commit: int) -> SegmentRecord | None:
        """Write the deleted rows of a segment beside its files; return its new record, None if no row is left."""
        rows = self.deleted_rows.get(segment.record.name)
        if not rows:
            return segment.record
        is_deleted = ~segment.alive
        is_deleted[torch.tensor(sorted(rows))] = True
        if is_deleted.all():
            return None
        name = f"deleted-{commit:06d}.npy"
        write_whole(segment.folder / name, lambda file: np.save(file, is_deleted.nonzero()[:, 0].numpy()))
        files = {known: record for known, record in segment.record.files.items() if known != segment.record.deleted}
        return replace(segment.record, files={**files, name: file_record(segment.folder / name)}, deleted=name)
