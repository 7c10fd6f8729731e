"""Where a run's model and its rows come from, read from recipes: the facts of a card that nobody has to type."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from drdecr.data.offline_backbone import ORIGIN
from drdecr.modeling_drdecr.pushing_drdecr import hub_name

from .recipe import OFFLINE, Recipe, load_recipe

PLACES = ("parallel", "questions", "unlabelled", "annotated", "pool", "query_tokens", "passage_tokens")
"""Settings under `data` whose rows are learnt from."""

ENGLISH_PASSAGES = ("afriqa", "clapnq", "mkqa_retrieval", "qed", "sample_questions", "xor_retrieve")
"""Formats of question sets whose passages are in English by what they are; those of others may be in any language."""

PAGE = re.compile(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+|[\w.-]+)/?$")


def base_model(recipe: Recipe) -> str | None:
    """Return the Hub name of the encoder that a run goes back to, over the runs before it; None if it has none.

    Args:
        recipe: of the run; runs that it starts from are followed through the `recipe.yaml` that they left.
    """
    seen: set[Path] = set()
    while recipe.start != OFFLINE:
        run = _run_before(recipe)
        if run is None:
            return hub_name(recipe.start)
        if run in seen or not (run / "recipe.yaml").exists():
            return None
        seen.add(run)
        recipe = load_recipe(run / "recipe.yaml", ["--output", json.dumps(str(run))])  # it may have been moved
    return ORIGIN


def _run_before(recipe: Recipe) -> Path | None:
    if recipe.start.startswith("stage:"):
        return recipe.folder.parent / recipe.start.removeprefix("stage:")
    folder = Path(recipe.start)
    return (folder.parent if folder.name in ("model", "adapter") else folder) if folder.is_dir() else None


def sources(recipe: Recipe) -> Iterator[dict[str, str]]:
    """Yield what is known of each set that a stage learnt from: its use, name, languages, revision, licence, source."""
    for use, entry in _entries(recipe):
        about = entry.get("about") or {}
        yield {
            "used as": use,
            "set": _set_name(entry),
            "languages": " ".join(entry.get("languages") or []),
            "revision": str(entry.get("revision") or ""),
            "licence": str(about.get("license") or ""),
            "source": str(about.get("source") or ""),
        }


def hub_datasets(recipes: Iterable[Recipe]) -> list[str]:
    """Return the Hub names of the sets that stages learnt from: those that are read from there, or say they are there."""
    named = {_hub_dataset(entry) for recipe in recipes for _, entry in _entries(recipe)}
    return sorted(name for name in named if name)


def learns_from_english(recipe: Recipe) -> bool:
    """Tell whether a stage is known to have read English: rows with the column `english`, or English passages."""
    data = recipe.data
    has_english_column = bool(data.parallel or data.unlabelled or data.annotated or data.stream)
    return has_english_column or any(_has_english_passages(entry) for entry in data.questions)


def passages_are_english(recipes: Iterable[Recipe]) -> bool:
    """Tell whether stages learnt from passages that are all known to be in English."""
    entries = [entry for recipe in recipes for part in _passage_settings(recipe) for entry in part]
    return bool(entries) and all(_has_english_passages(entry) for entry in entries)


def _passage_settings(recipe: Recipe) -> tuple[list[dict[str, Any]], ...]:
    return recipe.data.questions, recipe.data.annotated, recipe.data.pool


def _has_english_passages(entry: dict[str, Any]) -> bool:
    return entry["format"] in ENGLISH_PASSAGES and entry.get("pivot", "en") == "en"


def _entries(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in recipe.projection_text or []:
        yield "projection", entry
    for place in PLACES:
        found = getattr(recipe.data, place) or []
        for entry in found if isinstance(found, list) else [found]:
            yield place.replace("_", " "), entry


def _hub_dataset(entry: dict[str, Any]) -> str | None:
    if str(entry["format"]).startswith("hub"):
        return hub_name(str(entry["name"]))
    page = PAGE.match(str((entry.get("about") or {}).get("source") or ""))
    return page.group(1) if page else None


def _set_name(entry: dict[str, Any]) -> str:
    """Return a set's format and name; of a folder of this machine no more than a file's name."""
    places = (entry.get(key) for key in ("name", "path", "questions", "split"))
    named = next((place for place in places if isinstance(place, str)), "")
    named = re.sub(r"^\$\w+/", "", named)
    shown = ", ".join(
        part for part in (Path(named).name if Path(named).is_absolute() else named, entry.get("config")) if part
    )
    return f"{entry['format']}: {shown}" if shown else str(entry["format"])
