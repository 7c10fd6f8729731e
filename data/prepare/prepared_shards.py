"""Shards of prepared sets: parquet files with one schema a table, written whole or not at all, and checked by their digests."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drdecr.data.files import digest_of, whole_file
from drdecr.data.schema import PARALLEL_COLUMNS

ROW_GROUP = 5_000
"""Rows that are read at once when sets are mixed: some 2 MB of parallel text."""

PROVENANCE = "provenance.json"

_TEXT, _IDS = pa.string(), pa.list_(pa.string())
_PLACE = [("source", _TEXT), ("row", pa.int64())]

SCHEMAS: Mapping[str, pa.Schema] = {
    "parallel": pa.schema([*((name, _TEXT) for name in PARALLEL_COLUMNS), *_PLACE]),
    "questions": pa.schema(
        [
            *((name, _TEXT) for name in ("query_id", "query", "english", "language")),
            *((name, _IDS) for name in ("document_ids", "irrelevant_ids", "answers")),
            ("relevance", pa.list_(pa.int64())),
            *_PLACE,
        ]
    ),
    "candidates": pa.schema(
        [
            *((name, _TEXT) for name in PARALLEL_COLUMNS),
            ("document_ids", _IDS),
            ("teacher_scores", pa.list_(pa.float32())),
            ("teacher_query_tokens", pa.int64()),
            *_PLACE,
        ]
    ),
    "passages": pa.schema([("document_id", _TEXT), ("text", _TEXT)]),
}
"""Columns of each table. `source` and `row` say where a row comes from: its number in the stream of that source, from 1."""


@dataclass(frozen=True)
class Shard:
    """A file of a prepared folder.

    Args:
        path: below the folder.
        rows: in it.
        bytes: its size.
        sha256: its digest.
        language: of all its rows; empty for passages.
    """

    path: str
    rows: int
    bytes: int
    sha256: str
    language: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def write_shard(folder: Path, path: str, table: pa.Table, language: str = "") -> Shard:
    """Write a shard whole or not at all.

    Its pages carry checksums, so that who reads some of it sees damage there.
    """
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished:
        pq.write_table(
            table.combine_chunks(), unfinished, row_group_size=ROW_GROUP, compression="zstd", write_page_checksum=True
        )
        return Shard(path, table.num_rows, unfinished.stat().st_size, digest_of(unfinished), language)


def wrong_shards(folder: Path, shards: Iterable[Shard]) -> list[str]:
    """Check shards by size and digest.

    Returns:
        A sentence for each that is missing, cut off or changed; none if all are as they were written.
    """
    found = []
    for shard in shards:
        file = folder / shard.path
        if not file.exists():
            found.append(f"{shard.path}: missing.")
        elif file.stat().st_size != shard.bytes:
            found.append(f"{shard.path}: expected {shard.bytes} bytes, got {file.stat().st_size}.")
        elif digest_of(file) != shard.sha256:
            found.append(f"{shard.path}: its bytes are not those that were written.")
    return found


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read what a prepared folder says of itself.

    Raises:
        ValueError: if the folder is no prepared one, or what it says was cut off.
    """
    file = folder / PROVENANCE
    if not file.exists():
        raise ValueError(
            f"{folder}: expected a folder that `drdecr data prepare` wrote, with {PROVENANCE}. Prepare it first."
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected JSON ({error}). Get the folder again, or prepare it again.") from error


def shards_of(provenance: Mapping[str, Any]) -> list[Shard]:
    """Return the shards that a provenance lists."""
    return [Shard(**shard) for source in provenance["sources"] for shard in source["shards"]]


def verify(folder: Path) -> int:
    """Check every shard of a prepared folder, and that there is none besides.

    Returns:
        How many were checked.

    Raises:
        ValueError: naming every shard that is missing, cut off, changed or unknown.
    """
    shards = shards_of(read_provenance(folder))
    wrong = wrong_shards(folder, shards)
    known = {shard.path for shard in shards}
    there = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.parquet")))
    wrong += [f"{name}: no shard of this folder." for name in there if name not in known]
    if wrong:
        raise ValueError(
            f"{folder}: expected {len(shards)} shards as they were written, got {len(wrong)} wrong: {' '.join(wrong)} Get "
            "these files again, or prepare the folder again."
        )
    return len(shards)
