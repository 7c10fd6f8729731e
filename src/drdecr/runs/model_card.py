"""The model card, rendered from what the runs wrote down. What no run knows is left out."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from drdecr.data.files import write_text
from drdecr.data.offline.backbone import ORIGIN
from drdecr.data.provenance import in_words
from drdecr.evaluation.metrics import MEASURE, display_name
from drdecr.evaluation.results import Comparison, EvaluationResult
from drdecr.evaluation.tables import markdown_differences, markdown_table
from drdecr.modeling_drdecr.hub_drdecr import hub_name
from drdecr.retrieval.encoder import OFFLINE

from .recipe import ARGUMENTS, Recipe, load_recipe

if TYPE_CHECKING:
    from .recipe import Pipeline
DISTILLATION_WEIGHTS = ("relevance_weight", "token_weight", "anchor_weight")
"""Settings of the terms in which a teacher is imitated."""
TAGS = ["drdecr", "ColBERT", "cross-lingual-retrieval", "knowledge-distillation", "late-interaction"]


def write_model_card(
    folder: Path,
    pipeline: "Pipeline",
    recipes: dict[str, Recipe],
    results: dict[str, EvaluationResult],
    comparison: Comparison,
) -> Path:
    """Write `README.md` beside a student's weights.

    Args:
        folder: of the student's model.
        pipeline: what was run; its `card` holds what no recipe says, whichever is known: `license`, `title`, `description`,
            `data` (in words), `limits`, and `base_model` and `datasets` (Hub names) where they are others than the recipes'.
        recipes: of its stages, by name.
        results: of the table's systems, by label.
        comparison: student against the first system.

    Returns:
        The card's path.
    """
    runs = {
        name: json.loads((recipe.folder / "run.json").read_text(encoding="utf-8")) for name, recipe in recipes.items()
    }
    label = pipeline.student_label
    data = ModelCardData(
        language=sorted({code for code in results[label].scores[MEASURE] if code != "avg"} | _languages(runs, recipes)),
        license=pipeline.card.get("license"),
        library_name="transformers",
        tags=TAGS,
        base_model=pipeline.card.get("base_model") or base_model(recipes[pipeline.student]),
        datasets=sorted({*pipeline.card.get("datasets", []), *hub_datasets(recipes.values())}) or None,
        pipeline_tag="sentence-similarity",
        model_name=pipeline.card.get("title", "drdecr student"),
        eval_results=_eval_results(pipeline, results[label]),
    )
    measured = {
        "table": markdown_table(results, MEASURE),
        "differences": markdown_differences(comparison, MEASURE),
        "baseline": pipeline.systems[0].label,
        "student": label,
        "collection": pipeline.collection,
    }
    return _write(folder, data, pipeline.card, runs, pipeline.student, recipes, measured)


def write_run_card(recipe: Recipe) -> Path:
    """Write `README.md` beside the model of one run, which nothing but its own log has measured.

    Args:
        recipe: of a run that is complete.

    Returns:
        The card's path.
    """
    name = recipe.folder.name
    recipes, runs = {name: recipe}, {name: json.loads((recipe.folder / "run.json").read_text(encoding="utf-8"))}
    data = ModelCardData(
        language=sorted(_languages(runs, recipes)) or None,
        library_name="transformers",
        tags=TAGS,
        base_model=base_model(recipe),
        datasets=hub_datasets([recipe]) or None,
        pipeline_tag="sentence-similarity",
    )
    return _write(recipe.model_folder, data, {}, runs, name, recipes, None)


def write_missing_card(folder: Path) -> None:
    """Write the card of a run's model where it has none yet; a pipeline's card, which knows more, stays."""
    run = folder if (folder / "model").is_dir() else folder.parent
    if (run / "run.json").exists() and (run / "model").is_dir() and not (run / "model" / "README.md").exists():
        write_run_card(load_recipe(run / "recipe.yaml", ["--output", json.dumps(str(run))]))  # it may have been moved


def _languages(runs: Mapping[str, dict[str, Any]], recipes: Mapping[str, Recipe]) -> set[str]:
    """Return the languages that runs learnt from, with English where their recipes say that they read it."""
    codes = {code for run in runs.values() for code in run.get("languages", [])}
    return codes | {"en"} if any(map(learns_from_english, recipes.values())) else codes


def _is_distilled(recipe: Recipe) -> bool:
    """Tell whether a stage learnt from a teacher: a term of distillation has a weight."""
    arguments = ARGUMENTS.get(recipe.stage)
    return arguments is not None and any(
        recipe.training.get(setting, getattr(arguments, setting)) > 0 for setting in DISTILLATION_WEIGHTS
    )


def _write(
    folder: Path,
    data: ModelCardData,
    card: dict[str, Any],
    runs: dict[str, Any],
    student: str,
    recipes: Mapping[str, Recipe],
    measured: dict[str, str] | None,
) -> Path:
    drawn = folder.parent / "curves.png"
    if drawn.exists():
        shutil.copyfile(drawn, folder / drawn.name)
    read = [{"stage": name, **source} for name, recipe in recipes.items() for source in sources(recipe)]
    template = Path(__file__).with_name("model_card.md")
    environment = Environment(loader=FileSystemLoader(template.parent), undefined=StrictUndefined, autoescape=False)
    body = environment.get_template(template.name).render(
        card=card,
        title=card.get("title", "drdecr student"),
        front_matter=data.to_yaml(),
        runs=runs,
        in_words=in_words,
        final=runs[student],
        distilled=_is_distilled(recipes[student]),
        english_passages=passages_are_english(recipes.values()),
        read=read,
        columns=[name for name in (read[0] if read else {}) if any(row[name] for row in read)],
        measured=measured,
        curves=drawn.exists(),
    )
    write_text(folder / "README.md", str(ModelCard(body)))
    return folder / "README.md"


def _eval_results(pipeline: "Pipeline", result: EvaluationResult) -> list[Any]:
    return [
        EvalResult(
            task_type="text-retrieval",
            task_name="Cross-lingual retrieval",
            dataset_type=pipeline.card.get("dataset", "custom"),
            dataset_name=pipeline.collection,
            dataset_config=language,
            metric_type="mrr_at_10",
            metric_name=f"{display_name(MEASURE)}, {'macro average' if language == 'avg' else language}, n={score.n}",
            metric_value=round(score.mean, 4),
            metric_args={"confidence_interval_95": [round(score.low, 4), round(score.high, 4)]},
        )
        for language, score in result.scores[MEASURE].items()
    ]


PLACES = (
    "parallel",
    "questions",
    "unlabelled_queries",
    "scored_candidates",
    "corpus",
    "query_tokens",
    "passage_tokens",
)
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
    while recipe.model != OFFLINE:
        run = _run_before(recipe)
        if run is None:
            return hub_name(recipe.model)
        if run in seen or not (run / "recipe.yaml").exists():
            return None
        seen.add(run)
        recipe = load_recipe(run / "recipe.yaml", ["--output", json.dumps(str(run))])  # it may have been moved
    return ORIGIN


def _run_before(recipe: Recipe) -> Path | None:
    if recipe.model.startswith("stage:"):
        return recipe.folder.parent / recipe.model.removeprefix("stage:")
    folder = Path(recipe.model)
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
    has_english_column = bool(data.parallel or data.unlabelled_queries or data.scored_candidates)
    return has_english_column or any(_has_english_passages(entry) for entry in data.questions)


def passages_are_english(recipes: Iterable[Recipe]) -> bool:
    """Tell whether stages learnt from passages that are all known to be in English."""
    entries = [entry for recipe in recipes for part in _passage_settings(recipe) for entry in part]
    return bool(entries) and all(_has_english_passages(entry) for entry in entries)


def _passage_settings(recipe: Recipe) -> tuple[list[dict[str, Any]], ...]:
    return recipe.data.questions, recipe.data.scored_candidates, recipe.data.corpus


def _has_english_passages(entry: dict[str, Any]) -> bool:
    return entry["format"] in ENGLISH_PASSAGES and entry.get("pivot", "en") == "en"


def _entries(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in recipe.projection_text or []:
        yield "projection", entry
    for place in PLACES:
        entries = getattr(recipe.data, place) or []
        for entry in entries if isinstance(entries, list) else [entries]:
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
    words = ", ".join(
        part for part in (Path(named).name if Path(named).is_absolute() else named, entry.get("config")) if part
    )
    return f"{entry['format']}: {words}" if words else str(entry["format"])
