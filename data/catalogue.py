"""Sources that are known by name: where each comes from, under which licence, how it is read, and what must be in it."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from .download import download, download_member
from .row_streams import open_stream
from .source_files import files_of

CATALOGUE = Path(__file__).with_name("catalogue.yaml")

ROLES = ("train", "test", "both")
"""`test` is never trained on; `both` is a benchmark that some train on, and then no longer measure on."""


@dataclass(frozen=True)
class Source:
    """A public source.

    Args:
        name: by which recipes call it.
        title: what it is.
        role: one of `ROLES`.
        home: its page.
        entry: how it is read (`open_stream`); files below `$DRDECR_DATA`.
        licence: as its page says; empty where that was not seen.
        revision: of what was seen, where it has one.
        files: where files come from: `path` below `$DRDECR_DATA`, `url`, perhaps `sha256`, and of a tar archive the `member`
            that becomes the file.
        expected: rows by table, and digests of the first and the last row that is no passage.
        note: what else to know.
        tried: `real` if its own files were read and counted, `form` if files of the same form were.
    """

    name: str
    title: str
    role: str
    home: str
    entry: Mapping[str, Any]
    licence: str = ""
    revision: str = ""
    files: tuple[Mapping[str, str], ...] = ()
    expected: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    tried: str = "form"

    def __post_init__(self) -> None:
        """Check what a slip of the pen in the catalogue would change."""
        if self.role not in ROLES or self.tried not in ("real", "form"):
            raise ValueError(
                f"{self.name}: expected a role of {', '.join(ROLES)} and tried real or form, got {self.role}, {self.tried}."
            )

    def is_here(self) -> bool:
        """Tell whether all its files are on disk. What the Hub or `ir_datasets` would get is not."""
        try:
            return bool(list(files_of(self.entry)))
        except (FileNotFoundError, ValueError):
            return False

    def download(self) -> list[Path]:
        """Get the files that are not here yet.

        Raises:
            ValueError: if it has none that can be got, or `DRDECR_DATA` is not set.
        """
        if not self.files:
            raise ValueError(
                f"{self.name}: expected files that can be got by URL, there is none. See {self.home}. {self.note}"
            )
        if "DRDECR_DATA" not in os.environ:
            raise ValueError(
                "The environment variable DRDECR_DATA is not set. Set it to the folder that holds the data."
            )
        root = Path(os.environ["DRDECR_DATA"])
        members = {file["path"]: file["member"] for file in self.files if "member" in file}
        return [
            download_member(url, members[path], root / path, digest)
            if path in members
            else download(url, root / path, digest)
            for path, url, digest in self._wanted()
        ]

    @property
    def caution(self) -> str:
        """What was not verified; nothing of a source whose own files were read."""
        if self.tried == "real":
            return ""
        licence = "its licence and its counts were" if self.licence else "its licence is not known, and its counts were"
        return f"Unverified: only files of the same form were read, {licence} not checked."

    def _wanted(self) -> Iterator[tuple[str, str, str | None]]:
        languages = self.entry.get("languages") or []
        names = list(languages.values()) if isinstance(languages, Mapping) else languages
        for file in self.files:
            for name in names if "{language}" in file["path"] else [""]:
                pair = "-".join(sorted((name, "en")))
                path, url = (file[key].replace("{language}", name).replace("{pair}", pair) for key in ("path", "url"))
                yield path, url, file.get("sha256")

    def check(self) -> None:
        """Compare what its files hold with what the catalogue says of them.

        Raises:
            ValueError: if they hold other rows.
        """
        if not self.expected:
            return
        found = facts_of(self.entry)
        wrong = [f"{key} {self.expected[key]}" for key in self.expected if found.get(key) != self.expected[key]]
        if wrong:
            got = ", ".join(f"{key} {found.get(key)}" for key in self.expected)
            raise ValueError(
                f"{self.name}: expected {', '.join(wrong)}, got {got}. Its files are cut off or of another version: get them "
                "again, or write the entry itself into the recipe in place of the name."
            )


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Source]:
    """Return the known sources by name."""
    content = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    known = {f.name for f in fields(Source)}
    for name, facts in content.items():
        if unknown := set(facts) - known:
            raise ValueError(f"{CATALOGUE.name}, {name}: unknown {', '.join(sorted(unknown))}. Correct the catalogue.")
    return {
        name: Source(name=name, **{**facts, "files": tuple(facts.get("files", ()))}) for name, facts in content.items()
    }


def source_named(name: str) -> Source:
    """Return a known source.

    Raises:
        ValueError: for a name that is not known.
    """
    if name not in catalogue():
        raise ValueError(
            f"source: expected a name of `drdecr prepare --list`, got {name!r}. Or give its `format` and arguments."
        )
    return catalogue()[name]


def facts_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Count an entry's rows by table, and digest the first and the last one that is no passage.

    Returns:
        `rows` by table, `first` and `last` as the first 16 hexadecimal digits of the SHA-256 of the row as JSON.
    """
    counts: Counter[str] = Counter()
    ends: list[str] = []
    row: Mapping[str, Any] | None = None
    for table, found in open_stream(entry):
        if table == "left_out":
            continue
        counts[table] += 1
        if table != "passages":
            row = found
            ends = ends or [_digest(found)]
    return {"rows": dict(counts)} | ({"first": ends[0], "last": _digest(row)} if row is not None else {})


def _digest(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
