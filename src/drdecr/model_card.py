"""The model card, rendered from what the runs wrote down. What no run knows is left out."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from drdecr.evaluation.metrics import display_name
from drdecr.evaluation.report import markdown_differences, markdown_table
from drdecr.evaluation.results import Comparison, EvaluationResult

from .origins import base_model, hub_datasets, learns_from_english, passages_are_english, sources
from .peak_memory import in_words
from .recipe import ARGUMENTS, Recipe
from .run_folder import write_text

if TYPE_CHECKING:
    from .pipeline import Pipeline

MEASURE = "RR@10"
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


def _languages(runs: Mapping[str, dict[str, Any]], recipes: Mapping[str, Recipe]) -> set[str]:
    """Return the languages that runs learnt from, with English where their recipes say that they read it."""
    found = {code for run in runs.values() for code in run.get("languages", [])}
    return found | {"en"} if any(map(learns_from_english, recipes.values())) else found


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
