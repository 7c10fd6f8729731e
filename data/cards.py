"""The card of exported data, written from the recipe and from what was counted. What is not known is left out."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData

from drdecr.runs.recipe import Recipe

from .files import value_digest
from .hub import Configs, write_dataset
from .prepare.cleaning import REASONS
from .provenance import environment, redact_paths
from .schema import column_of
from .sources import changed_inputs

REASONS_IN_WORDS = {
    "read": "read",
    "repeated": "repeated",
    "held_out": "in a held-out set",
    "over_limit": "outside the limit",
    "too_few_negatives": "too few negatives",
    "kept": "kept",
}

USE = """\
```python
from datasets import load_dataset

rows = load_dataset("THIS_DATASET", "{config}", split="{split}")  # streaming=True reads no more than it needs
```

In a recipe of `drdecr`: `{{format: hub, name: THIS_DATASET, config: parallel}}` under `parallel`,
`{{format: hub_candidates, name: THIS_DATASET, config: ..._candidates}}` under `scored_candidates`,
`{{format: hub_questions, name: THIS_DATASET, questions: evaluation_..., passages: evaluation_..._passages, split: test,
passages_split: test}}` under `validation`, `{{format: hub_tokens, name: THIS_DATASET}}` as `query_tokens`.
Name the `revision`."""

Sources = Mapping[str, list[dict[str, Any]]]


def data_card(
    recipe: Recipe,
    configs: Configs,
    sources: Sources,
    cleaning: Mapping[str, Mapping[str, int]],
    environment: Mapping[str, Any],
    seed: int,
    license: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return the card's text and its metadata.

    Args:
        recipe: that made the sets.
        configs: the rows.
        sources: what is known of each entry, by its place in the recipe.
        cleaning: for each set what was read, dropped and kept.
        environment: versions, commit, command.
        seed: of sampling and splitting.
        license: of the whole; default: that of all sources that go into rows, if each names the same.
    """
    used = [entry for place, entries in sources.items() if place != "held_out" for entry in entries]
    named = {entry.get("license") for entry in used}
    license = license or (named.pop() if len(named) == 1 else None)
    languages = sorted({code for rows in filled_rows(configs) for code in languages_of(rows)})
    if any("english" in rows.column_names for rows in filled_rows(configs)):
        languages = sorted({*languages, "en"})
    metadata = {"language": languages, "license": license, "task_categories": ["text-retrieval"]}
    metadata["tags"] = ["drdecr", "cross-lingual-retrieval", "knowledge-distillation"]
    first = next(iter(configs))
    is_counted = {key for counts in cleaning.values() for key, count in counts.items() if count}
    reasons = [key for key in REASONS_IN_WORDS if key in is_counted or key not in ("over_limit", "too_few_negatives")]
    parts = [
        "# Processed sets for cross-lingual retrieval",
        "Questions and sentences in several languages with their English text, as `drdecr` trains on them: cleaned, split and, "
        "where a teacher read them, with candidates and scores.",
        "## Rows",
        table(["configuration", "split", "rows", "by language"], counted_rows(configs)),
        *_candidate_note(recipe, configs),
        "## Sources",
        table(["used as", "format", "arguments", "revision", "licence", "source"], _source_rows(sources)),
        "## Cleaning",
        "Rows whose normalised text repeats an earlier one, or stands in a held-out or validation set, are left out.",
        table(
            ["set", *(REASONS_IN_WORDS[key] for key in reasons)],
            [[name, *(counts.get(key, "") for key in reasons)] for name, counts in cleaning.items()],
        ),
        "## Made by",
        made_by(environment, seed),
        "## Use",
        USE.format(config=first, split=next(iter(configs[first]))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n", {k: v for k, v in metadata.items() if v}


def filled_rows(configs: Configs) -> list[Dataset]:
    """Return the sets of all configurations and splits that hold rows."""
    return [rows for splits in configs.values() for rows in splits.values() if len(rows)]


def languages_of(rows: Dataset) -> dict[str, int]:
    """Return how many rows there are of each language; none without a column of that name."""
    return dict(Counter(column_of(rows, "language"))) if "language" in rows.column_names else {}


def counted_rows(configs: Configs) -> list[list[Any]]:
    """Return configuration, split, rows, and rows by language."""
    lines = []
    for name, splits in configs.items():
        for split, rows in splits.items():
            if not len(rows):
                continue
            counted = languages_of(rows)
            lines.append([f"`{name}`", split, len(rows), ", ".join(f"{c} {n}" for c, n in sorted(counted.items()))])
    return lines


def _candidate_note(recipe: Recipe, configs: Mapping[str, Any]) -> list[str]:
    own = [name for name in ("questions_candidates", "unlabelled_queries_candidates") if name in configs]
    if not own:
        return []
    reader = recipe.teacher if recipe.teacher and recipe.teacher != "adapters_off" else recipe.model
    shown = Path(reader).name if Path(reader).is_absolute() else reader
    return [
        f"Candidates were found, and `teacher_scores` (sums over `teacher_query_tokens` cosines) given, by `{shown}`, which read "
        "the English text. In `questions_candidates` the first candidate is the answer."
    ]


def _source_rows(sources: Sources) -> list[list[str]]:
    return [
        [
            place,
            entry["format"],
            ", ".join(f"{key}: {_shown(value)}" for key, value in entry["arguments"].items()),
            str(entry.get("revision", "")),
            str(entry.get("license", "")),
            str(entry.get("source", "")),
        ]
        for place, entries in sources.items()
        for entry in entries
    ]


def _shown(value: Any) -> str:
    """Show an argument; of an absolute path the file's name, for the rest is nobody else's business."""
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value
    if isinstance(value, Mapping):
        return " ".join(str(key) for key in value)
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def made_by(environment: Mapping[str, Any], seed: int | None = None) -> str:
    """Say which command, commit and versions made a dataset; with a seed, that of a recipe which stands beside the card."""
    versions = ", ".join(f"{name} {found}" for name, found in environment["versions"].items() if found)
    recipe = [", with the recipe in `recipe.yaml`", f"\n- seed: {seed}"] if seed is not None else []
    lines = [f"- command: `{environment['command']}`{''.join(recipe)}"]
    if environment.get("git_commit"):
        lines.append(f"- commit: {environment['git_commit']}")
    return "\n".join([*lines, f"- versions: {versions}"])


def table(head: list[str], lines: list[list[Any]]) -> str:
    """Return a table in Markdown without its empty columns; nothing for no lines."""
    filled = [column for column in range(len(head)) if any(str(line[column]) for line in lines)]
    rows = [head, ["---"] * len(head), *lines]
    text = [[str(row[column]).replace("|", "\\|").replace("\n", " ") for column in filled] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in text) if lines else ""


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
    said = {**redact_paths(facts), **digest, "counters": dict(counters or {})}
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
    if others := changed_inputs(found["inputs"], inputs):
        raise ValueError(
            f"{folder} exists and was made from other files (what changed: {', '.join(others)}). Choose another folder, or "
            "delete it: it is then made anew."
        )
    return True


LEAKS = {
    "held_out": "passages that answer a held-out question",
    "overlap": "passages with 13 words in a row (26 letters in scripts without spaces) of one",
}

PREPARED_USE = """\
```python
from datasets import load_dataset

rows = load_dataset("THIS_DATASET", "{config}", split="train", streaming=True)
```

In a recipe of `drdecr`, from a copy on disk: `{{format: prepared, folder: ..., cleaned: true}}` under `parallel`, which is
mapped into memory and not cleaned again. `drdecr data prepare --verify FOLDER` compares every shard with its digest in
`provenance.json`."""


def prepared_card(provenance: Mapping[str, Any], license: str | None = None) -> str:
    """Return the card's text with its metadata.

    Args:
        provenance: of the folder.
        license: of the whole; default: that of all sources, if each names the same.
    """
    sources = provenance["sources"]
    named = {source.get("license") for source in sources}
    license = license or (named.pop() if len(named) == 1 else None)
    languages = {shard["language"] for source in sources for shard in source["shards"]} - {""} | {"en"}
    configs = _configs(sources)
    data: dict[str, Any] = {"language": sorted(languages), "task_categories": ["text-retrieval"], "configs": configs}
    data["tags"] = ["drdecr", "cross-lingual-retrieval"]
    if license:
        data |= license_metadata(license)
    parts = [
        "# Prepared sets for cross-lingual retrieval",
        "Questions and sentences in several languages with their English text, and passages, as `drdecr data prepare` read and "
        "cleaned them. `source` and `row` of a row say where it comes from.",
        "## Rows",
        table(["source", "table and language", "rows"], _kept(sources)),
        "## Sources",
        table(
            ["source", "format", "share", "revision", "licence", "page", "note"],
            [_described(source) for source in sources],
        ),
        "The digest of every file that was read is in `provenance.json`.",
        "## Cleaning",
        table(["source", "read", *REASONS, "left out by the reader"], [_cleaned(source) for source in sources]),
        "\n".join(f"- {name}: {meaning}" for name, meaning in REASONS.items()),
        "## Held out",
        table(
            ["set", "texts", "passages that answer"],
            [
                [found["name"], found["texts"] or "not here", found["passages"] or ""]
                for found in provenance["held_out"]
            ],
        ),
        _leaks(sources),
        "## Made by",
        made_by(provenance["made_by"], provenance["seed"]),
        "## Use",
        PREPARED_USE.format(config=configs[0]["config_name"]),
    ]
    text = "\n\n".join(part for part in parts if part)
    return str(DatasetCard(f"---\n{DatasetCardData(**data).to_yaml()}\n---\n\n{text}\n"))


def _configs(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a configuration for each table, and one for each source of it."""
    found: dict[str, list[str]] = {}
    for source in sources:
        for name in sorted({shard["path"].partition("/")[0] for shard in source["shards"]}):
            found.setdefault(name, []).append(source["name"])
    configs = []
    for name, homes in found.items():
        configs.append((name, f"{name}/*/*.parquet"))
        configs += [(f"{name}-{home}", f"{name}/{home}/*.parquet") for home in homes]
    return [{"config_name": name, "data_files": [{"split": "train", "path": pattern}]} for name, pattern in configs]


def _kept(sources: list[dict[str, Any]]) -> list[list[Any]]:
    return [[source["name"], group, count] for source in sources for group, count in source["kept"].items()]


def _described(source: Mapping[str, Any]) -> list[str]:
    revision = source.get("commit") or source.get("revision") or ""
    share = "" if source["share"] == 1 else str(source["share"])
    return [
        source["name"],
        source["format"],
        share,
        revision,
        *(source.get(key, "") for key in ("license", "source", "note")),
    ]


def _leaks(sources: list[dict[str, Any]]) -> str:
    """Say how many passages answer held-out questions; they are not dropped, since questions name them."""
    found = [
        [source["name"], *(source["leaks"].get(name, 0) for name in LEAKS)] for source in sources if source["leaks"]
    ]
    head = ["source", *LEAKS.values()]
    return f"Passages that stay, for questions name them:\n\n{table(head, found)}" if found else ""


def _cleaned(source: Mapping[str, Any]) -> list[Any]:
    left_out = ", ".join(f"{count} {reason}" for reason, count in source["left_out"].items())
    return [
        source["name"],
        sum(source["read"].values()),
        *(source["dropped"].get(name, "") for name in REASONS),
        left_out,
    ]


KNOWN = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0
cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1
lgpl-3.0 lgpl-lr mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail osl-3.0 other pddl unknown unlicense wtfpl zlib
"""
"""Identifiers of data and code (https://huggingface.co/docs/hub/repositories-licenses), without those of single models."""

SHORT = {"cc0": "cc0-1.0"}


def license_metadata(license: str) -> dict[str, str]:
    """Return what a card says of a licence.

    Returns:
        `{"license": identifier}`, so `cc-by-sa-4.0` of `CC BY-SA 4.0`. Of one that the Hub does not know, or of several in
        one text, `{"license": "other", "license_name": ...}`.
    """
    spelled = "-".join(license.lower().split())
    spelled = SHORT.get(spelled, spelled)
    if spelled in KNOWN.split():
        return {"license": spelled}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", spelled).strip("-.")}
