"""What a step of the data path is asked for, and which files it read: what tells a repeated call that they are others now."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drdecr.data.digests import value_digest
from drdecr.data.source_files import files_of
from drdecr.data.whole_files import digest_of

from .identity import KINDS_OF_FILES
from .recipe import parse_overrides, read_yaml
from .settings import Settings, settings_of

NOT_HERE = "not here"


def load_settings(kind: type[Settings], path: Path, overrides: Sequence[str], command: str) -> Settings:
    """Read a step's settings from YAML and apply overrides, `--key value` or `--section.key value`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no mapping, or an unknown key or value.
    """
    content = read_yaml(path, f"the settings of `drdecr {command}` (docs/teaching.md)")
    for key, value in parse_overrides(overrides).items():
        section, dot, name = key.partition(".")
        if dot and not isinstance(content.setdefault(section, {}), dict):
            raise ValueError(
                f"--{key}: {section!r} holds one value, not settings of its own. Give `--{section} VALUE`."
            )
        place, last = (content[section], name) if dot else (content, key)
        place[last] = value
    return settings_of(kind, content, str(path))


def input_digests(
    entries: Mapping[str, Iterable[Mapping[str, Any]]], models: Mapping[str, str | None]
) -> dict[str, str]:
    """Return a digest of the files behind each entry and each local checkpoint; a pass over them is a second a GB.

    Args:
        entries: of a recipe, by the setting that lists them; an entry without `format` names its file by `path`.
        models: checkpoints by the setting that names them. One that is no local folder has no digest.

    Returns:
        `{"questions 1": digest, "teacher": digest}`; `NOT_HERE` for files that are missing, of which the reader says more.
    """
    found: dict[str, str] = {}
    for setting, listed in entries.items():
        for number, entry in enumerate(listed, start=1):
            try:
                files = [file for file in files_of({"format": "texts", **entry}) if file.name != "README.md"]
            except (FileNotFoundError, ValueError):
                found[f"{setting} {number}"] = NOT_HERE
                continue
            if files:  # else it is the Hub's, or the package's own
                found[f"{setting} {number}"] = _digest(files)
    for setting, source in models.items():
        if source and Path(source).is_dir():
            files = sorted(file for file in Path(source).rglob("*") if file.suffix in KINDS_OF_FILES)
            found[setting] = _digest(files)
    return found


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return which inputs are others than before. One that has since been deleted has not changed what was made of it."""
    names = dict.fromkeys([*before, *now])
    gone = {name for name in before if now.get(name, NOT_HERE) == NOT_HERE}
    return [name for name in names if name not in gone and before.get(name) != now.get(name)]


def _digest(files: Iterable[Path]) -> str:
    return value_digest([[file.name, digest_of(file)] for file in files])
