"""A set of numbers on disk: which rows have been seen, in constant memory."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

CACHE_KILOBYTES = 64_000
"""Memory for the pages that were used last."""


class SeenKeys:
    """Signed 64-bit numbers in a SQLite file, which is made anew.

    The file is of use to one process while it lives: it is not written safely, and who goes on after a kill fills it again.

    Args:
        file: where.
    """

    def __init__(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        self._connection = sqlite3.connect(file, isolation_level=None)
        for pragma in (
            "journal_mode=OFF",
            "synchronous=OFF",
            f"cache_size=-{CACHE_KILOBYTES}",
            "locking_mode=EXCLUSIVE",
        ):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY)")
        self._connection.execute("BEGIN")

    def add(self, key: int) -> bool:
        """Add a number; return whether it was not there."""
        return self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def update(self, keys: Iterable[int]) -> None:
        """Add numbers."""
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((key,) for key in keys))

    def close(self) -> None:
        """Close the file; it stays where it is."""
        self._connection.close()
