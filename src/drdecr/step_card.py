"""What a step of the data path leaves beside its rows: a card that counts them, and the facts that made them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drdecr.data.digests import value_digest
from drdecr.data.export import Configs, write_dataset

from .data_card import counted_rows, filled_rows, languages_of, made_by, table
from .published import shown
from .run_folder import environment
from .step_inputs import changed


def write_step(
    folder: Path,
    configs: Configs,
    title: str,
    note: str,
    facts: Mapping[str, Any],
    counters: Mapping[str, int] | None = None,
    license: str | None = None,
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Write a step's rows as a dataset with a card and `facts.json`, whole or not at all.

    Args:
        folder: must not be there yet.
        configs: the rows by configuration and split.
        title: of the card.
        note: what the rows are, in Markdown.
        facts: what made them, values that JSON can hold; `settings` and `inputs`
            (`step_inputs.input_digests`) among them tell a repeated call from another one.
        counters: what was counted on the way: rows read, dropped for which reason, kept.
        license: of the whole; default: not said.
        folders: shards that go along, by their place in the folder.
    """
    languages = {code for rows in filled_rows(configs) for code in languages_of(rows)}
    metadata = {"language": sorted({*languages, "en"}), "license": license, "task_categories": ["text-retrieval"]}
    metadata["tags"] = ["drdecr", "cross-lingual-retrieval"]
    parts = [
        f"# {title}",
        note,
        "## Rows",
        table(["configuration", "split", "rows", "by language"], counted_rows(configs)),
        "## Counted" if counters else "",
        table(["what", "number"], [[name, number] for name, number in (counters or {}).items()]),
        "## Made by",
        made_by(environment()),
    ]
    body = "\n\n".join(part for part in parts if part) + "\n"
    known = {key: value for key, value in metadata.items() if value}
    digest = {"settings_digest": value_digest(facts["settings"])}
    said = {**shown(facts), **digest, "counters": dict(counters or {})}
    write_dataset(folder, configs, body, known, facts=said, folders=folders)


def is_step_done(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Tell whether a folder holds the outcome of these settings, and of the files as they are, already.

    Raises:
        ValueError: if it holds anything else: nothing is overwritten.
    """
    if not folder.exists():
        return False
    file = folder / "facts.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if found.get("settings_digest") != value_digest(settings):
        raise ValueError(f"{folder} exists and was not made with these settings. Choose another folder, or delete it.")
    if "inputs" not in found:
        raise ValueError(f"{folder} does not say which files it was made from. Choose another folder, or delete it.")
    if others := changed(found["inputs"], inputs):
        raise ValueError(
            f"{folder} exists and was made from other files (what changed: {', '.join(others)}). Choose another folder, or "
            "delete it: it is then made anew."
        )
    return True
