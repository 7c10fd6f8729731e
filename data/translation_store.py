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
        file: SQLite database, made if it is not there. Engines do not mix: their name, revision and parameters are the key.
        batch_size: texts translated between two writes (default 256).

    Raises:
        ValueError: if the file is there and is no such database.
    """

    def __init__(self, translator: Translator, file: Path, batch_size: int = 256) -> None:
        self.translator, self.file, self.batch_size = translator, file, batch_size
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(file, timeout=600)
            self._database.executescript(TABLES)
            if "is_cut" not in [
                row[1] for row in self._database.execute("PRAGMA table_info(translations)")
            ]:  # before 0.1
                self._database.execute("ALTER TABLE translations ADD COLUMN is_cut INTEGER NOT NULL DEFAULT 0")
            with self._database:
                self._database.execute("INSERT OR IGNORE INTO engines (key) VALUES (?)", (self.engine.key,))
            found = self._database.execute("SELECT id FROM engines WHERE key = ?", (self.engine.key,))
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{file}: expected a store of translations ({error}). Choose another file.") from error
        self._id = found.fetchone()[0]

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
            rows = [
                (self._id, source, target, text, translation.text, translation.score, translation.is_cut)
                for text, translation in zip(batch, made, strict=True)
            ]
            with self._database:
                self._database.executemany("INSERT OR IGNORE INTO translations VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            known.update(zip(batch, made, strict=True))
        return [known[text] for text in texts]

    def _kept(self, text: str, source: str, target: str) -> Translation | None:
        found = self._database.execute(
            "SELECT translation, score, is_cut FROM translations WHERE engine = ? AND source = ? AND target = ? AND text = ?",
            (self._id, source, target, text),
        ).fetchone()
        return Translation(found[0], found[1], bool(found[2])) if found else None
