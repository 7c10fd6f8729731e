"""The card of a prepared folder, written from its provenance."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from drdecr.data.row_checks import REASONS

from .data_card import made_by, table
from .hub_license import license_metadata

LEAKS = {
    "held_out": "passages that answer a held-out question",
    "overlap": "passages with 13 words in a row (26 letters in scripts without spaces) of one",
}

USE = """\
```python
from datasets import load_dataset

rows = load_dataset("THIS_DATASET", "{config}", split="train", streaming=True)
```

In a recipe of `drdecr`, from a copy on disk: `{{format: prepared, folder: ...}}` under `parallel`, or `stream:`, which
mixes languages and sources in constant memory. `drdecr prepare --verify FOLDER` compares every shard with its digest in
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
        "Questions and sentences in several languages with their English text, and passages, as `drdecr prepare` read and "
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
        USE.format(config=configs[0]["config_name"]),
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
