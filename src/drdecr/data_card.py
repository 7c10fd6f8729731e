"""The card of exported data, written from the recipe and from what was counted. What is not known is left out."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from drdecr.data.export import Configs
from drdecr.data.row_parts import RowParts
from drdecr.data.schema import column_of

from .recipe import Recipe

REASONS = {"read": "read", "repeated": "repeated", "held_out": "in a held-out set", "kept": "kept"}

USE = """\
```python
from datasets import load_dataset

rows = load_dataset("THIS_DATASET", "{config}", split="{split}")  # streaming=True reads no more than it needs
```

In a recipe of `drdecr`: `{{format: hub, name: THIS_DATASET, config: parallel}}` under `parallel`,
`{{format: hub_candidates, name: THIS_DATASET, config: ..._candidates}}` under `annotated`,
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
            ["set", *REASONS.values()],
            [[name, *(found.get(key, "") for key in REASONS)] for name, found in cleaning.items()],
        ),
        "## Made by",
        made_by(environment, seed),
        "## Use",
        USE.format(config=first, split=next(iter(configs[first]))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n", {k: v for k, v in metadata.items() if v}


def filled_rows(configs: Configs) -> list[Dataset | RowParts]:
    """Return the sets of all configurations and splits that hold rows."""
    return [rows for splits in configs.values() for rows in splits.values() if len(rows)]


def languages_of(rows: Dataset | RowParts) -> dict[str, int]:
    """Return how many rows there are of each language; none without a column of that name."""
    if isinstance(rows, RowParts):
        return rows.languages()
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
    own = [name for name in ("questions_candidates", "unlabelled_candidates") if name in configs]
    if not own:
        return []
    reader = recipe.teacher if recipe.teacher and recipe.teacher != "adapters_off" else recipe.start
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
