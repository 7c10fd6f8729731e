"""What a translation and a translator are, and translations on disk by engine, languages and text: none is made twice."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

TABLES = """
CREATE TABLE IF NOT EXISTS engines (id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS translations (
    engine INTEGER NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, text TEXT NOT NULL,
    translation TEXT NOT NULL, score REAL, is_cut INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (engine, source, target, text)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Translation:
    """One translated text.

    Args:
        text: the translation; empty where the engine gave none.
        score: how sure the engine is, higher is better, on a scale of its own (`Engine`); None where it does not say.
        is_cut: whether the text was longer than the engine reads, so that its end is not translated (default False).
    """

    text: str
    score: float | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class Engine:
    """What tells the translations of one engine from those of another: the key of what is kept, and its provenance.

    Args:
        name: of the model or program: a Hub name, a folder, `apertium`.
        revision: the model's commit, a digest of its files, or a program's version.
        parameters: whatever else changes a translation, such as `num_beams`; values that JSON can hold.
        score: what its scores mean.
    """

    name: str
    revision: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    score: str = "none"

    @property
    def key(self) -> str:
        """Name, revision and parameters in one line of JSON."""
        return json.dumps([self.name, self.revision, dict(self.parameters)], sort_keys=True, ensure_ascii=False)


class Translator(Protocol):
    """Anything that translates: those of `drdecr.data.teacher.translators`, or one of your own."""

    @property
    def engine(self) -> Engine:
        """Which engine this is."""

    def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
        """Translate texts of one language.

        Args:
            texts: to be translated, each by itself.
            source: code of their language, as in `language` columns (`es`).
            target: code of the wanted language (default `en`).

        Returns:
            One translation a text, in the order of the texts.

        Raises:
            ValueError: for a language that the engine does not know.
        """


def translate_questions(
    translator: Translator, texts: Sequence[str], languages: Sequence[str], target: str = "en"
) -> list[Translation]:
    """Translate questions of several languages: the teacher's first step when it is asked in any of them.

    Args:
        translator: of every language but `target`.
        texts: the questions.
        languages: the language of each.
        target: code of the wanted language (default `en`); questions in it stay as they are, without a score.

    Returns:
        One translation a question, in their order.
    """
    places: dict[str, list[int]] = {}
    for place, (_, language) in enumerate(zip(texts, languages, strict=True)):
        places.setdefault(language, []).append(place)
    done = [Translation(text) for text in texts]
    for language, indices in places.items():
        if language != target:
            translated = translator.translate([texts[place] for place in indices], language, target)
            for place, translation in zip(indices, translated, strict=True):
                done[place] = translation
    return done


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
        stored = {text: self._look_up(text, source, target) for text in unique}
        known = {text: translation for text, translation in stored.items() if translation is not None}
        missing = [text for text in unique if text not in known]
        starts = range(0, len(missing), self.batch_size)
        hidden = True if len(starts) < 2 else None
        for start in tqdm(starts, desc=f"translating {source} to {target}", unit="batch", disable=hidden):
            batch = missing[start : start + self.batch_size]
            translations = self.translator.translate(batch, source, target)
            database = self._database or self._open()
            rows = [
                (self._id, source, target, text, translation.text, translation.score, translation.is_cut)
                for text, translation in zip(batch, translations, strict=True)
            ]
            with database:
                database.executemany("INSERT OR IGNORE INTO translations VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            known.update(zip(batch, translations, strict=True))
        return [known[text] for text in texts]

    def _open(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            database = sqlite3.connect(self.file, timeout=600)
            database.executescript(TABLES)
            with database:
                database.execute("INSERT OR IGNORE INTO engines (key) VALUES (?)", (self.engine.key,))
            ids = database.execute("SELECT id FROM engines WHERE key = ?", (self.engine.key,))
            self._id = ids.fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.file}: expected a store of translations ({error}). Choose another file."
            ) from error
        self._database = database
        return database

    def _look_up(self, text: str, source: str, target: str) -> Translation | None:
        if self._database is None:
            return None
        row = self._database.execute(
            "SELECT translation, score, is_cut FROM translations WHERE engine = ? AND source = ? AND target = ? AND text = ?",
            (self._id, source, target, text),
        ).fetchone()
        return Translation(row[0], row[1], bool(row[2])) if row else None
