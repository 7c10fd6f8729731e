"""Rows of a file in a nameless temporary file that is mapped: what memory holds does not grow with them."""

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
from datasets import Dataset

BATCH = 10_000
"""Rows that are held in memory while they are written."""

Rows = Iterable[Mapping[str, Any]]


def mapped_rows(read: Callable[[], Rows], columns: Sequence[str], source: object) -> Dataset:
    """Make a data set of rows, which lies in a temporary file (`TMPDIR`) until it goes, or its process.

    Args:
        read: yields the rows from the first on; called twice, for their kinds and for themselves.
        columns: of the rows. One that a row lacks is None there.
        source: what is read, for messages.

    Raises:
        ValueError: naming the source, for values of two kinds in one column.
    """
    try:
        schemas = (_table(batch, columns).schema for batch in _batches(read()))
        schema = pa.schema([])
        for found in schemas:
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        digest = hashlib.sha256()
        with tempfile.TemporaryFile(prefix="drdecr-rows-") as file:
            sink = pa.PythonFile(file, mode="w")  # it closes the file when it goes
            with pa.ipc.new_file(sink, schema) as writer:
                for batch in _batches(read()):
                    writer.write_table(_table(batch, columns, schema))
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # outlives the file's handle
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{source}: expected values of one kind in each column ({error}). Mend the rows.") from error
    table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
    digest.update(mapped)
    return Dataset(table, fingerprint=digest.hexdigest()[:16])


def _batches(rows: Rows) -> Iterator[list[Mapping[str, Any]]]:
    stream = iter(rows)
    while batch := list(islice(stream, BATCH)):
        yield batch


def _table(rows: list[Mapping[str, Any]], columns: Sequence[str], schema: pa.Schema | None = None) -> pa.Table:
    values = {name: [row.get(name) for row in rows] for name in columns}
    return pa.Table.from_pydict(values, schema=schema)
