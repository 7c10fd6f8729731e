"""Which files an entry of a recipe names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .text_files import expanded, locate_all

PATH_KEYS = ("path", "english", "questions", "passages", "triples", "queries", "scores", "topics", "qrels", "folder")
"""Arguments of readers that name files; those of the formats `hub...` name configurations."""


def files_of(entry: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files that an entry names, in order, those of each language and each file of a folder.

    Of the formats `hub...` these are the files of a local folder; a name on the Hub has a commit instead.

    Raises:
        FileNotFoundError: if one is not there.
    """
    if str(entry["format"]).startswith("hub"):
        folder = expanded(entry.get("name") or "no folder")
        yield from _below(folder) if folder.is_dir() else ()
        return
    if str(entry["format"]).startswith(("ir_datasets", "sample")):
        return
    languages = entry.get("languages") or []
    names = list(languages.values()) if isinstance(languages, Mapping) else languages
    for key in PATH_KEYS:
        value = entry.get(key)
        for path in [value] if isinstance(value, str) else value or []:
            paths = [path.replace("{language}", name) for name in names] if "{language}" in path else [path]
            for found in locate_all(paths):
                yield from _below(found) if found.is_dir() else [found]


def _below(folder: Path) -> list[Path]:
    """Return the files below a folder but for hidden ones, such as what a download notes of itself."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
