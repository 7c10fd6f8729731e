"""Scores that another program gave, by question and passage id: read once, and looked up on disk.

A file of scores is TSV of query id, document id and score; a TREC run (six fields); or JSON Lines `[query_id, [document_id,
score], ...]`, the n-way form of Stanford ColBERT. It may be packed by gzip.
"""

import csv
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from tqdm.auto import tqdm

from .text_files import lines_of
from .whole_files import clear_unfinished, digest_of, whole_file

CACHE_KILOBYTES = 64_000
"""Memory for the pages that were used last."""

_INSERT = "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)"
_FIND = "SELECT score FROM scores WHERE query_id = ? AND document_id = ?"


class StoredScores:
    """Scores in a SQLite file. Of a pair that stands twice the last score counts.

    Args:
        file: of scores.
        store: SQLite file, written whole or not at all; one that was made of the same file is taken as it is.

    Raises:
        ValueError: naming file and line, for another form. Nothing is left on disk.
    """

    def __init__(self, file: Path, store: Path) -> None:
        self.digest = digest_of(file)
        store.parent.mkdir(parents=True, exist_ok=True)
        clear_unfinished(store.parent)
        if not store.exists() or _made_of(store) != self.digest:
            try:
                with whole_file(store) as unfinished:
                    _write(file, self.digest, unfinished)
            except ValueError:
                with suppress(OSError):
                    store.parent.rmdir()  # if nothing else is there
                raise
        self._connection = _opened(store)

    def get(self, query_id: str, document_id: str) -> float | None:
        """Return a score; None where the file has none."""
        found = self._connection.execute(_FIND, (_key(query_id), _key(document_id))).fetchone()
        if found is None:
            return None
        return float("nan") if found[0] is None else float(found[0])  # SQLite keeps NaN as nothing


def _write(file: Path, digest: str, store: Path) -> None:
    """Make the SQLite file. It is not written safely: a kill leaves one that nobody opens."""
    with closing(_opened(store)) as connection:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE source (digest TEXT)")
        connection.execute(
            "CREATE TABLE scores (query_id BLOB, document_id BLOB, score REAL, PRIMARY KEY (query_id, document_id)) "
            "WITHOUT ROWID"
        )
        connection.execute("BEGIN")
        connection.execute("INSERT INTO source VALUES (?)", (digest,))
        connection.executemany(_INSERT, _keyed(scores_of(file)))
        connection.execute("COMMIT")


def _made_of(store: Path) -> str:
    with closing(_opened(store)) as connection:
        return str(connection.execute("SELECT digest FROM source").fetchone()[0])


def _opened(store: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute(f"PRAGMA cache_size=-{CACHE_KILOBYTES}")
    return connection


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # JSON may hold half of a surrogate pair, which is no text to SQLite


def _keyed(scores: Iterable[tuple[str, str, float]]) -> Iterator[tuple[bytes, bytes, float]]:
    for query_id, document_id, score in tqdm(scores, desc="reading scores", unit="score", disable=None):
        yield _key(query_id), _key(document_id), score


def scores_of(file: Path) -> Iterator[tuple[str, str, float]]:
    """Yield question id, passage id and score of each line.

    Raises:
        ValueError: naming file and line, for another form.
    """
    for number, line in lines_of(file):
        try:
            if line.lstrip()[:1] == "[":
                query_id, *pairs = json.loads(line)
                yield from ((str(query_id), str(name), float(score)) for name, score in pairs)
                continue
            fields = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE)) if "\t" in line else line.split()
            query_id, document_id, score = (fields[0], fields[2], fields[4]) if len(fields) == 6 else fields
            yield query_id, document_id, float(score)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number}: expected query id, document id and score, a line of a TREC run, or "
                f"[query_id, [document_id, score], ...], got {line[:80]!r}. Write the score as a number, or drop the line."
            ) from error
