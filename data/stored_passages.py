"""A collection on disk: passages are read where they lie, and only their ids are held in memory."""

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

BATCH = 4096
"""Passages that are held in memory while a collection is written."""


class StoredPassages(Mapping[str, str]):
    """Passages `{document_id: text}` in a nameless temporary file (`TMPDIR`), which ends with the object or the process.

    Args:
        rows: `(file, line number, document_id, text)`, read once, as a stream. A blank text cannot be found and is left
            out; its id stands in `blank_ids`.
        source: what is read, for messages.

    Raises:
        ValueError: naming file and line, for an id that stands twice; or if there is no passage. Nothing is left on disk.
    """

    def __init__(self, rows: Iterable[tuple[object, int, str, str]], source: object) -> None:
        self.blank_ids: set[str] = set()
        self._places: dict[str, int] = {}
        self._batches: list[pa.Array] = []
        with tempfile.TemporaryFile(prefix="drdecr-passages-") as file:
            sink = pa.PythonFile(file, mode="w")  # it closes the file when it goes
            with pa.ipc.new_file(sink, pa.schema([("text", pa.string())])) as writer:
                for texts in self._in_batches(rows):
                    writer.write_batch(pa.record_batch([pa.array(texts, pa.string())], ["text"]))
            if not self._places:
                raise ValueError(f"{source}: expected passages with text, got none. Look at the path.")
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # outlives the file's handle
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
        self._batches = [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]

    def _in_batches(self, rows: Iterable[tuple[object, int, str, str]]) -> Iterator[list[str]]:
        texts: list[str] = []
        for source, number, document_id, text in rows:
            if document_id in self._places or document_id in self.blank_ids:
                raise ValueError(
                    f"{source}, line {number}: document_id {document_id!r} stands twice. Give each passage an id of its "
                    "own."
                )
            if not text.strip():
                self.blank_ids.add(document_id)
                continue
            self._places[document_id] = len(self._places)
            texts.append(text)
            if len(texts) == BATCH:
                yield texts
                texts = []
        if texts:
            yield texts

    def __getitem__(self, document_id: str) -> str:
        batch, row = divmod(self._places[document_id], BATCH)
        return self._batches[batch][row].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, document_id: object) -> bool:
        return document_id in self._places
