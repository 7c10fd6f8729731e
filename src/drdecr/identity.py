"""Which model a name or a folder stands for now: what changes when its weights do."""

import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

KINDS_OF_FILES = (".json", ".safetensors", ".bin", ".model")
"""Configuration, tokenizer and weights, by the ending."""


def commit_of(source: str, revision: str | None = None) -> str | None:
    """Return the commit that a Hub name stands for now, so that all its files are of one state; None for a folder."""
    if os.path.isdir(source):
        return None
    missing: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    found = cached_file(source, "config.json", **missing) or cached_file(source, "adapter_config.json", **missing)
    return extract_commit_hash(found, None)


def model_identity(source: str, revision: str | None = None) -> str:
    """Return a text that is another one when a model is another one, without reading its weights.

    Args:
        source: folder or Hub name.
        revision: of the Hub name.

    Returns:
        What the run that made the model wrote of itself; of another folder its files' sizes and times of change; of a Hub
        name its commit.
    """
    folder = Path(source)
    if not folder.is_dir():
        return f"{source} {commit_of(source, revision)}"
    run = folder.parent / "run.json"
    if folder.name in ("model", "adapter") and run.exists():
        return run.read_text(encoding="utf-8")
    files = sorted(path for path in folder.iterdir() if path.suffix in KINDS_OF_FILES)
    return "\n".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
