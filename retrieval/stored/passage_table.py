"""Ids and payloads of a segment's passages, in an Arrow file that is memory-mapped; filters read them key by key."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from drdecr.retrieval.protocol import keys_of_value

from .manifest import DamagedIndexError

FILE_NAME = "passages.arrow"
PASSAGES_PER_BATCH = 4096
"""Passages of a batch of the Arrow file."""
MOST_COLUMNS = 32
"""Payload keys whose values stay in memory for the next filter, 8 bytes a passage and key."""


@dataclass(frozen=True)
class PayloadColumn:
    """What a key has in the payloads of a segment.

    Args:
        codes: number of each value, as `value_key` writes it.
        rows: int32: rows that have the key, a row once for each member of a list.
        values: int32: number of the value of each.
    """

    codes: dict[Hashable, int]
    rows: npt.NDArray[np.int32]
    values: npt.NDArray[np.int32]

    def rows_with(self, wanted_values: Iterable[Hashable]) -> npt.NDArray[np.int32]:
        """Return the rows that have one of some values."""
        codes = [self.codes[value] for value in wanted_values if value in self.codes]
        return self.rows[np.isin(self.values, codes)]


class PassageTable:
    """Ids and payloads by row.

    Args:
        folder: of the segment.
        num_rows: passages that must be in it.

    Raises:
        ValueError: for another number, or a file that is none of `write_passages`.
    """

    def __init__(self, folder: Path, num_rows: int) -> None:
        self._path, self.num_rows = folder / FILE_NAME, num_rows
        self._reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
        sizes = [self._reader.get_batch(number).num_rows for number in range(self._reader.num_record_batches)]
        if sum(sizes) != num_rows or any(size != PASSAGES_PER_BATCH for size in sizes[:-1]):
            raise ValueError(f"{FILE_NAME}: batches of {sizes} rows")
        self._columns: OrderedDict[str, PayloadColumn] = OrderedDict()
        self._payload_keys: set[str] | None = None
        self._id_keys: npt.NDArray[np.int64] | None = None

    def ids(self) -> list[str]:
        """Return the ids of all rows, deleted ones too."""
        return [to_text(value) for value in self._cells(0)]

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of some rows."""
        return [to_text(self.cell(row, 0)) for row in rows]

    def payload(self, row: int) -> dict[str, Any]:
        """Return what was added with a row."""
        return self._parse(self.cell(row, 1))

    def payloads(self) -> Iterator[dict[str, Any]]:
        """Yield the payloads of all rows, deleted ones too."""
        return map(self._parse, self._cells(1))

    def cell(self, row: int, column: int) -> bytes:
        """Return a row's id (column 0) or payload (1), as the file has it."""
        batch, place = divmod(row, PASSAGES_PER_BATCH)
        return self._reader.get_batch(batch).column(column)[place].as_py()

    def _cells(self, column: int) -> Iterator[bytes]:
        for number in range(self._reader.num_record_batches):
            yield from self._reader.get_batch(number).column(column).to_pylist()

    def _parse(self, cell: bytes) -> dict[str, Any]:
        try:
            payload = json.loads(to_text(cell))
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            raise DamagedIndexError(f"{self._path}: damaged, a payload is no JSON object. Restore it from a copy.")
        return payload

    def rows_named(self, names: set[str], keys: npt.NDArray[np.int64]) -> list[int]:
        """Return the rows that have one of some ids; memory keeps 8 bytes of each passage.

        Args:
            names: ids.
            keys: theirs, as `id_keys` gives them.
        """
        if self._id_keys is None:
            self._id_keys = id_keys(self.ids())
        rows = np.flatnonzero(np.isin(self._id_keys, keys)).tolist()
        return [row for row in rows if self.ids_of([row])[0] in names]

    def select(self, values_by_key: Mapping[str, Iterable[Hashable]]) -> Tensor:
        """Return which rows pass a filter, as `filter_values` returns it: boolean `(rows,)`."""
        selected = torch.ones(self.num_rows, dtype=torch.bool)
        self._read_columns(values_by_key)
        for key, values in values_by_key.items():
            passes = torch.zeros(self.num_rows, dtype=torch.bool)
            if key in self._columns:
                passes[torch.from_numpy(self._columns[key].rows_with(values)).long()] = True
            selected &= passes
        while len(self._columns) > MOST_COLUMNS:
            self._columns.popitem(last=False)
        return selected

    def _read_columns(self, keys: Iterable[str]) -> None:
        """Read the payloads once for all keys that are not in memory; a key that no payload has costs nothing."""
        missing = []
        for key in keys:
            if key in self._columns:
                self._columns.move_to_end(key)
            elif self._payload_keys is None or key in self._payload_keys:
                missing.append(key)
        if not missing:
            return
        cells: dict[str, list[tuple[int, int]]] = {key: [] for key in missing}
        codes: dict[str, dict[Hashable, int]] = {key: {} for key in missing}
        payload_keys: set[str] = set()
        for row, payload in enumerate(self.payloads()):
            payload_keys.update(payload)
            for key in missing:
                for value in keys_of_value(payload[key]) if key in payload else ():
                    cells[key].append((row, codes[key].setdefault(value, len(codes[key]))))
        self._payload_keys = payload_keys
        for key in missing:
            rows, values = np.array(cells[key], dtype=np.int32).reshape(-1, 2).T
            self._columns[key] = PayloadColumn(codes[key], rows, values)


def write_passages(file: BinaryIO, cells: Iterable[tuple[bytes, bytes]]) -> None:
    """Write ids and payloads, in the order of rows, as a `PassageTable` reads them."""
    schema = pa.schema([("passage_id", pa.large_binary()), ("payload", pa.large_binary())])
    rows = iter(cells)
    with pa.ipc.new_file(file, schema) as writer:
        while batch := list(islice(rows, PASSAGES_PER_BATCH)):
            arrays = [pa.array(column, pa.large_binary()) for column in zip(*batch, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def id_keys(ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return 64 bits of each id, by which it is found among many; two ids may have the same."""
    digests = (hashlib.blake2b(to_bytes(name), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), dtype=np.int64)


# Bytes, not texts: half a surrogate pair is text to Python and no UTF-8, and comes back as it was.
def to_bytes(text: str) -> bytes:
    """Return a text as it is written."""
    return text.encode("utf-8", "surrogatepass")


def to_text(value: bytes) -> str:
    """Return a text as it was added."""
    return value.decode("utf-8", "surrogatepass")
