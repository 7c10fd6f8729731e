"""Translations kept on disk, by engine, languages and text: nothing is translated twice, and a kill loses one batch."""

import sqlite3
from pathlib import Path

from tqdm.auto import tqdm

from .translation import Engine, Translation, Translator

TABLES = """
CREATE TABLE IF NOT EXISTS engines (id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS translations (
    engine INTEGER NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, text TEXT NOT NULL,
    translation TEXT NOT NULL, score REAL, is_cut INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (engine, source, target, text)
) WITHOUT ROWID;
"""


class StoredTranslator:
    """A translator that looks up what it or another process has translated before.

    Args:
        translator: asked for what is not there.
        file: SQLite database, made with the first translation if it is not there: a refused language leaves none.
            Engines do not mix: their name, revision and parameters are the key.
        batch_size: texts translated between two writes (default 256).

    Raises:
        ValueError: if the file is there and is no such database.
    """

    def __init__(self, translator: Translator, file: Path, batch_size: int = 256) -> None:
        self.translator, self.file, self.batch_size = translator, file, batch_size
        self._database: sqlite3.Connection | None = None
        self._id = 0
        if file.exists():
            self._open()

    @property
    def engine(self) -> Engine:
        """The engine that is asked."""
        return self.translator.engine

    def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
        """Translate texts of one language, each different one once; see `Translator`."""
        unique = list(dict.fromkeys(texts))
        known = {text: found for text in unique if (found := self._kept(text, source, target)) is not None}
        missing = [text for text in unique if text not in known]
        starts = range(0, len(missing), self.batch_size)
        hidden = True if len(starts) < 2 else None
        for start in tqdm(starts, desc=f"translating {source} to {target}", unit="batch", disable=hidden):
            batch = missing[start : start + self.batch_size]
            made = self.translator.translate(batch, source, target)
            database = self._database or self._open()
            rows = [
                (self._id, source, target, text, translation.text, translation.score, translation.is_cut)
                for text, translation in zip(batch, made, strict=True)
            ]
            with database:
                database.executemany("INSERT OR IGNORE INTO translations VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            known.update(zip(batch, made, strict=True))
        return [known[text] for text in texts]

    def _open(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            database = sqlite3.connect(self.file, timeout=600)
            database.executescript(TABLES)
            if "is_cut" not in [row[1] for row in database.execute("PRAGMA table_info(translations)")]:  # before 0.1
                database.execute("ALTER TABLE translations ADD COLUMN is_cut INTEGER NOT NULL DEFAULT 0")
            with database:
                database.execute("INSERT OR IGNORE INTO engines (key) VALUES (?)", (self.engine.key,))
            found = database.execute("SELECT id FROM engines WHERE key = ?", (self.engine.key,))
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.file}: expected a store of translations ({error}). Choose another file."
            ) from error
        self._id = found.fetchone()[0]
        self._database = database
        return database

    def _kept(self, text: str, source: str, target: str) -> Translation | None:
        if self._database is None:
            return None
        found = self._database.execute(
            "SELECT translation, score, is_cut FROM translations WHERE engine = ? AND source = ? AND target = ? AND text = ?",
            (self._id, source, target, text),
        ).fetchone()
        return Translation(found[0], found[1], bool(found[2])) if found else None
