"""Rows on their way to a data set: one parquet shard after the other, each whole or not there; a killed call goes on behind them.

```
00000.parquet     rows of one part
00000.json        its digest, what was counted, and how much of the input it took
complete.json     there is no more
```
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .files import clear_unfinished, read_json, write_json
from .prepare.prepared_shards import Shard, write_shard, wrong_shards

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"


class RowParts:
    """Parts of rows in a folder, in order.

    What makes a part must depend on nothing but its input and the parts before, so that a resumed folder holds the bytes of one
    that was made at once.

    Args:
        folder: made if it is not there. Parts from the first on that is not as it was written are made again.
        schema: of the rows. With `Features(...).arrow_schema` `load_dataset` gives those features.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder)
        self.records: list[dict[str, Any]] = []
        while (file := self._record(len(self.records))).exists():
            record = read_json(file)
            wrong = wrong_shards(folder, [Shard(**record["shard"])])
            if wrong:
                logger.warning("%s: %s It is made again, with all that came after.", folder, wrong[0])
                self._forget(len(self.records))
                break
            self.records.append(record)

    @property
    def is_complete(self) -> bool:
        """Tell whether there is no part to come."""
        return (self.folder / COMPLETE).exists()

    @property
    def taken(self) -> int:
        """How much of the input the parts took: who goes on skips it."""
        return sum(record["taken"] for record in self.records)

    def write(self, rows: pa.Table, taken: int, counts: Mapping[str, int] | None = None) -> None:
        """Write the next part.

        Args:
            rows: of the schema's columns; perhaps none.
            taken: how much of the input they stand for.
            counts: what was counted on the way.
        """
        number = len(self.records)
        table = rows.select(self.schema.names).cast(self.schema)
        languages = Counter(table["language"].to_pylist()) if "language" in table.column_names else {}
        shard = write_shard(self.folder, f"{number:05d}.parquet", table)
        record = {"shard": shard.as_dict(), "taken": taken, "counts": dict(counts or {}), "languages": dict(languages)}
        write_json(self._record(number), record, sort_keys=False)  # counters come back in their order
        self.records.append(record)

    def write_rows(self, rows: Iterable[Mapping[str, Any]], size: int) -> "RowParts":
        """Write rows in parts of `size`, from where the folder is, and complete it."""
        stream = islice(iter(rows), self.taken, None)
        while not self.is_complete:
            batch = list(islice(stream, size))
            if batch or not self.records:
                self.write(pa.Table.from_pylist([dict(row) for row in batch], self.schema), len(batch))
            if len(batch) < size:
                self.complete()
        return self

    def complete(self) -> None:
        """Say that there is no part to come."""
        write_json(self.folder / COMPLETE, {"parts": len(self.records)})

    def tables(self, start: int = 0) -> Iterator[pa.Table]:
        """Yield the rows of each part, from a part on."""
        for record in self.records[start:]:
            yield pq.read_table(self.folder / record["shard"]["path"])

    def shards(self) -> list[Path]:
        """Return the files that hold rows."""
        return [self.folder / record["shard"]["path"] for record in self.records if record["shard"]["rows"]]

    def counts(self) -> dict[str, int]:
        """Return what was counted in all parts."""
        return self._summed("counts")

    def languages(self) -> dict[str, int]:
        """Return the rows of each language."""
        return self._summed("languages")

    @property
    def column_names(self) -> list[str]:
        """The columns."""
        return list(self.schema.names)

    def __len__(self) -> int:
        return sum(record["shard"]["rows"] for record in self.records)

    def _summed(self, name: str) -> dict[str, int]:
        summed: dict[str, int] = {}
        for record in self.records:
            for key, number in record[name].items():
                summed[key] = summed.get(key, 0) + number
        return summed

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"

    def _forget(self, number: int) -> None:
        (self.folder / COMPLETE).unlink(missing_ok=True)
        last = number
        while self._record(last).exists():
            last += 1
        for stale in reversed(range(number, last)):  # from the end, so that a kill leaves no gap
            self._record(stale).unlink()
