"""Texts of passages by id, on disk."""

import copy
import hashlib
import mmap
import tempfile
from array import array
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset

from .prepare.cleaning import text_key

BATCH = 4096
"""Passages that are held in memory while a collection is written."""

Row = tuple[object, int, str, str]
"""File, line in it, id and text."""

_COLUMNS = pa.schema(
    [("document_id", pa.string()), ("text", pa.string()), ("source", pa.int32()), ("line", pa.int64())]
)

TWO_TEXTS = (
    "passage {document_id!r}: expected one text, got one in {first!r} and another in {second!r}. Give each entry a `name:` of "
    "its own, which the ids begin with; in formats that bring their ids along (jsonl and those of the Hub), rename the passages."
)


class PassageStore(Mapping[str, str]):
    """Passages `{document_id: text}` in a nameless temporary file (`TMPDIR`), which ends with the object or the process.

    A passage is found by 64 bits of its id, and then by the id itself.

    Args:
        rows: read once, as a stream. A blank text cannot be found and is left out; its id stands in `blank_ids`.
        source: what is read, for messages.
        two_texts: default None: an id may not stand twice. Else it may, with one text; this is said of two, with the fields
            `document_id`, `first` and `second` (their files) and `line` (of the second).

    Raises:
        ValueError: naming file and line, for an id that stands twice, or text that is none; or if there is no passage.
            Nothing is left on disk.
    """

    def __init__(self, rows: Iterable[Row], source: object, two_texts: str | None = None) -> None:
        self.blank_ids: set[str] = set()
        self._blanks: dict[str, tuple[object, int]] = {}
        self._sources: dict[object, int] = {}
        self._alive: npt.NDArray[np.bool_] | None = None
        keys = array("q")
        with tempfile.TemporaryFile(prefix="drdecr-passages-") as file:
            sink = pa.PythonFile(file, mode="w")  # it closes the file when it goes
            with pa.ipc.new_file(sink, _COLUMNS) as writer:
                for batch in self._in_batches(rows, keys):
                    writer.write_batch(batch)
            if not keys:
                raise ValueError(f"{source}: expected passages with text, got none. Look at the path.")
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # outlives the file's handle
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        unsorted = np.frombuffer(keys, dtype=np.int64)
        self._order = np.argsort(unsorted, kind="stable").astype(np.uint32 if len(keys) < 2**32 else np.int64)
        self._keys = unsorted[self._order]
        self._resolve(two_texts)

    def _in_batches(self, rows: Iterable[Row], keys: "array[int]") -> Iterator[pa.RecordBatch]:
        waiting: list[tuple[str, str, int, int]] = []
        for source, line, document_id, text in rows:
            if document_id in self.blank_ids:
                raise _twice(source, line, document_id)
            if not text.strip():
                self.blank_ids.add(document_id)
                self._blanks[document_id] = (source, line)
                continue
            try:
                keys.append(text_key(document_id))
                (document_id + text).encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{source}, line {line}: expected text, got half of a surrogate pair in passage {document_id!r}. Mend it "
                    "there, or drop it."
                ) from error
            waiting.append((document_id, text, self._sources.setdefault(source, len(self._sources)), line))
            if len(waiting) == BATCH:
                yield _batch(waiting)
                waiting = []
        if waiting:
            yield _batch(waiting)

    def _resolve(self, two_texts: str | None) -> None:
        """Leave out what repeats an earlier passage, or say that it does."""
        names = list(self._sources)
        for document_id, (source, line) in self._blanks.items():
            if document_id in self:
                raise _twice(source, line, document_id)
        pairs = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        rows = sorted((int(self._order[place + 1]), int(self._order[place])) for place in pairs)
        rows = [(second, first) for second, first in rows if self.id_at(first) == self.id_at(second)]
        if rows and two_texts is None:
            _, _, source, line = self._row(rows[0][0])
            raise _twice(names[source], line, self.id_at(rows[0][0]))
        for second, first in rows:
            if self.text_at(first) != self.text_at(second):
                document_id, _, source, line = self._row(second)
                told = {"first": names[self._row(first)[2]], "second": names[source], "line": line}
                raise ValueError(str(two_texts).format(document_id=document_id, **told))
        if rows:
            self._alive = np.ones(len(self._keys), dtype=np.bool_)
            self._alive[[second for second, _ in rows]] = False

    def only(self, rows: npt.NDArray[np.bool_]) -> "PassageStore":
        """Return some of the passages, over the same file.

        Args:
            rows: boolean, one a row of the file (`num_rows`).
        """
        found = copy.copy(self)
        found._alive = rows if self._alive is None else rows & self._alive
        return found

    @property
    def num_rows(self) -> int:
        """Return how many rows the file has, those of passages that are left out too."""
        return len(self._keys)

    def row_of(self, document_id: str) -> int:
        """Return a passage's row in the file; `KeyError` for one that is not there."""
        row = self._find(document_id)
        if row is None:
            raise KeyError(document_id)
        return row

    def id_at(self, row: int) -> str:
        """Return the id of a row."""
        return self._batches[row // BATCH].column(0)[row % BATCH].as_py()

    def text_at(self, row: int) -> str:
        """Return the text of a row."""
        return self._batches[row // BATCH].column(1)[row % BATCH].as_py()

    def kept_rows(self) -> npt.NDArray[np.int64]:
        """Return the rows of all passages, ascending."""
        return np.arange(len(self._keys)) if self._alive is None else np.flatnonzero(self._alive)

    def texts(self) -> Sequence[str]:
        """Return the texts, in the order of the passages, as a sequence that reads each where it lies."""
        return _Texts(self, None if self._alive is None else self.kept_rows())

    def batches(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield ids and texts of up to `BATCH` passages at once, in order."""
        for number, batch in enumerate(self._batches):
            ids, texts = batch.column(0), batch.column(1)
            if self._alive is not None:
                mask = pa.array(self._alive[number * BATCH :][: len(ids)])
                ids, texts = ids.filter(mask), texts.filter(mask)
            if len(ids):
                yield ids.to_pylist(), texts.to_pylist()

    def __getitem__(self, document_id: str) -> str:
        return self.text_at(self.row_of(document_id))

    def __iter__(self) -> Iterator[str]:
        return (document_id for ids, _ in self.batches() for document_id in ids)

    def __len__(self) -> int:
        return len(self._keys) if self._alive is None else int(self._alive.sum())

    def __contains__(self, document_id: object) -> bool:
        return isinstance(document_id, str) and self._find(document_id) is not None

    def items(self) -> ItemsView[str, str]:
        """Return the passages; they are read batch by batch."""
        return _Items(self)

    def values(self) -> ValuesView[str]:
        """Return the texts; they are read batch by batch."""
        return _Values(self)

    def _find(self, document_id: str) -> int | None:
        key = text_key(document_id)
        place = int(np.searchsorted(self._keys, key))
        while place < len(self._keys) and self._keys[place] == key:
            row = int(self._order[place])
            if (self._alive is None or self._alive[row]) and self.id_at(row) == document_id:
                return row
            place += 1
        return None

    def _row(self, row: int) -> tuple[str, str, int, int]:
        values = (column[row % BATCH].as_py() for column in self._batches[row // BATCH].columns)
        document_id, text, source, line = values
        return document_id, text, source, line


class HasPassages(Protocol):
    """A set with passages: of questions or of candidates."""

    name: str
    passages: Mapping[str, str]


def merge_passages(sets: Iterable[HasPassages]) -> PassageStore:
    """Join the passages of several sets into one collection on disk; the same passage may stand in several of them.

    Raises:
        ValueError: naming both sets, where one id stands for two texts; or if there is no passage.
    """
    found = list(sets)
    if len(found) == 1 and isinstance(found[0].passages, PassageStore):
        return found[0].passages
    rows = (
        (part.name, line, document_id, text)
        for part in found
        for line, (document_id, text) in enumerate(part.passages.items(), start=1)
    )
    return PassageStore(rows, ", ".join(part.name for part in found), TWO_TEXTS)


class _Texts(Sequence[str]):
    def __init__(self, passages: PassageStore, rows: npt.NDArray[np.int64] | None) -> None:
        self._passages, self._rows = passages, rows

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[str]:
        return iter(self._passages.values())

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        return self._passages.text_at(place if self._rows is None else int(self._rows[place]))


class _Items(ItemsView[str, str]):
    _mapping: PassageStore

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return (pair for ids, texts in self._mapping.batches() for pair in zip(ids, texts, strict=True))


class _Values(ValuesView[str]):
    _mapping: PassageStore

    def __iter__(self) -> Iterator[str]:
        return (text for _, texts in self._mapping.batches() for text in texts)


def _batch(rows: list[tuple[str, str, int, int]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _COLUMNS, strict=True)]
    return pa.record_batch(arrays, schema=_COLUMNS)


def _twice(source: object, line: int, document_id: str) -> ValueError:
    return ValueError(
        f"{source}, line {line}: document_id {document_id!r} stands twice. Give each passage an id of its own."
    )


PASSAGE_SCHEMA = pa.schema([("document_id", pa.string()), ("text", pa.string())])

ROWS_PER_BATCH = 10_000
"""Rows that are held in memory while they are written."""

Rows = Iterable[Mapping[str, Any]]


def passage_rows(passages: Mapping[str, str]) -> Dataset:
    """Return a collection as rows of `document_id` and `text`, which lie on disk as those of `mapped_rows` do."""
    texts = ({"document_id": document_id, "text": text} for document_id, text in passages.items())
    return mapped_rows(lambda: texts, PASSAGE_SCHEMA.names, "passages", PASSAGE_SCHEMA)


def mapped_rows(
    read: Callable[[], Rows], columns: Sequence[str], source: object, schema: pa.Schema | None = None
) -> Dataset:
    """Make a data set of rows, which lies in a temporary file (`TMPDIR`) until it goes, or its process.

    Args:
        read: yields the rows from the first on; called twice, for their kinds and for themselves, with a schema once.
        columns: of the rows. One that a row lacks is None there.
        source: what is read, for messages.
        schema: kinds of the columns; default: what the rows hold.

    Raises:
        ValueError: naming the source, for values of two kinds in one column.
    """
    try:
        schema = _schema_of(read(), columns) if schema is None else schema
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


def _schema_of(rows: Rows, columns: Sequence[str]) -> pa.Schema:
    schema = pa.schema([])
    for batch in _batches(rows):
        schema = pa.unify_schemas([schema, _table(batch, columns).schema], promote_options="permissive")
    return schema


def _batches(rows: Rows) -> Iterator[list[Mapping[str, Any]]]:
    stream = iter(rows)
    while batch := list(islice(stream, ROWS_PER_BATCH)):
        yield batch


def _table(rows: list[Mapping[str, Any]], columns: Sequence[str], schema: pa.Schema | None = None) -> pa.Table:
    values = {name: [row.get(name) for row in rows] for name in columns}
    return pa.Table.from_pydict(values, schema=schema)
