"""Export a recipe's sets as a dataset: parallel text, n-way rows with teacher scores, evaluation sets, teacher tokens."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCard

from drdecr.data.cards import data_card
from drdecr.data.embeddings.cache import TokenCache
from drdecr.data.hub import write_dataset
from drdecr.data.mixture import split_dev
from drdecr.data.provenance import environment, hub_revision
from drdecr.data.schema import CANDIDATE_COLUMNS, PARALLEL_COLUMNS, QuestionSet
from drdecr.data.sources import files_of

from .recipe import ADAPTERS_OFF, Recipe, check_scorer
from .run_folder import is_done, same_recipe, start_run
from .stage import resolve_precision
from .training_data import english_cache, prepare_sets
from .validation import read_validation

logger = logging.getLogger(__name__)

TOKENS = ("none", "queries", "all")
SOURCES = ("parallel", "questions", "unlabelled_queries", "scored_candidates", "corpus", "held_out")


def export_data(recipe: Recipe, folder: Path, tokens: str = "none", license: str | None = None) -> Path:
    """Write a recipe's processed sets into a folder that `load_dataset` opens; leave it alone if it is there.

    The configurations: `parallel`; `questions_candidates`, `unlabelled_queries_candidates` and `scored_candidates` with their
    `passages`; for each validation set `evaluation_NAME` and `evaluation_NAME_passages`; `teacher_queries` and
    `teacher_passages`. Rows for training have the splits `train` and `dev`, cut as a run of the recipe cuts them.

    Args:
        recipe: of a stage; its teacher finds and scores the candidates. Those of `unlabelled_queries` stay in the run's folder,
            so that an interrupted export, or a training afterwards, does not search again.
        folder: of the dataset.
        tokens: also the teacher's token embeddings: of English texts (`queries`), of passages too (`all`); default `none`.
            At 128 dimensions a question takes some 5 kB, a passage 40 kB.
        license: of the whole, for the card; default: what the entries say `about` themselves, if they agree.

    Returns:
        The folder.

    Raises:
        ValueError: for an unknown kind of tokens, `initialise`, or a folder that holds something else.
    """
    if tokens not in TOKENS:
        raise ValueError(f"tokens: expected one of {', '.join(TOKENS)}, got {tokens!r}.")
    if recipe.stage == "initialise":
        raise ValueError(
            "stage: expected one that learns from data, got 'initialise'. Export the recipe of another stage."
        )
    if folder.exists():
        if (folder / "recipe.yaml").exists() and same_recipe(folder / "recipe.yaml", recipe):
            _check_same_options(folder, tokens, license)
            logger.warning("%s is exported already.", folder)
            return folder
        raise ValueError(f"{folder} exists and is no export of this recipe. Choose another folder, or delete it.")
    seed = recipe.training.get("seed", 12345)
    settings = recipe.data
    scores = bool(settings.questions or settings.unlabelled_queries)
    if settings.unlabelled_queries:
        is_done(recipe)  # refuses the folder of another recipe's run: its candidates are not ours
        start_run(recipe)
    reads = resolve_precision(recipe)
    reader = _reader(reads) if scores or tokens != "none" else None
    check_scorer(recipe)
    prepared = prepare_sets(reads, reader, seed, scored=True)
    configs: dict[str, dict[str, Dataset]] = {}
    for name, (train, dev) in split_dev(prepared.rows, settings.dev_texts, seed).items():
        columns = PARALLEL_COLUMNS if name == "parallel" else CANDIDATE_COLUMNS
        columns = (*columns, *(column for column in ("positive_ids",) if column in train.column_names))
        parts = {"train": train, "dev": dev}
        config = name if name in ("parallel", "scored_candidates") else f"{name}_candidates"
        configs[config] = {split: part.select_columns(list(columns)) for split, part in parts.items()}
    if prepared.passages and set(prepared.rows) - {"parallel"}:
        configs["passages"] = {"train": _passage_rows(prepared.passages)}
    for entry in recipe.validation:
        configs.update(_evaluation(read_validation(entry), set(configs)))
    if reader is not None and tokens != "none":
        configs["teacher_queries"] = {"train": english_cache(reader, prepared, settings.token_folder).to_dataset()}
    if reader is not None and tokens == "all" and prepared.passages:
        passage_cache = prepared.passage_cache or TokenCache.of_documents(reader, prepared.passages)
        configs["teacher_passages"] = {"train": passage_cache.to_dataset()}
    if "teacher_queries" in configs:
        configs["teacher_queries"]["train"] = _of_rows(configs["teacher_queries"]["train"], prepared.rows)
    sources = {name: [_described(entry) for entry in getattr(settings, name)] for name in SOURCES}
    sources["validation"] = [_described(entry) for entry in recipe.validation]
    body, metadata = data_card(recipe, configs, sources, prepared.cleaning, environment(), seed, license)
    write_dataset(folder, configs, body, metadata, recipe.as_yaml())
    return folder


def _check_same_options(folder: Path, tokens: str, license: str | None) -> None:
    """Refuse options that an export which is there was not made with."""
    has_queries, has_passages = ((folder / name).is_dir() for name in ("teacher_queries", "teacher_passages"))
    is_complete = has_passages or not (folder / "passages").is_dir()  # parallel text has none
    matches = {"none": not has_queries, "queries": has_queries and not has_passages, "all": has_queries and is_complete}
    named = DatasetCard.load(folder / "README.md").data.license
    differs = ["--tokens"] * (not matches[tokens]) + ["--license"] * (license not in (None, named))
    if differs:
        raise ValueError(
            f"{folder} was exported with other {' and '.join(differs)}. Give the same again, choose another folder, or delete "
            "it."
        )


def _reader(recipe: Recipe) -> Any:
    """Load the teacher; without one, or where it is the start's backbone, the start."""
    from drdecr.retrieval.encoder import load_teacher

    from .model_loading import load_student

    if recipe.teacher and recipe.teacher != ADAPTERS_OFF:
        return load_teacher(recipe.resolve(recipe.teacher), recipe.teacher_dtype)
    return load_student(recipe)


def _of_rows(tokens: Dataset, sets: Mapping[str, Dataset]) -> Dataset:
    """Leave out texts that no row has any more: candidates were searched for more questions than got some."""
    texts = {text for rows in sets.values() for text in rows.unique("english")}
    return tokens.select([row for row, text in enumerate(tokens["text"]) if text in texts])


def _passage_rows(passages: Any) -> Dataset:
    return Dataset.from_dict({"document_id": list(passages), "text": list(passages.values())})


def _evaluation(questions: QuestionSet, taken: set[str]) -> dict[str, dict[str, Dataset]]:
    slug = "".join(letter if letter.isalnum() else "_" for letter in questions.name.lower())
    name = f"evaluation_{slug}".replace("__", "_")
    if name in taken:
        raise ValueError(f"validation: two sets are named {questions.name!r}. Give each a `name` of its own.")
    return {name: {"test": questions.questions}, f"{name}_passages": {"test": _passage_rows(questions.passages)}}


def _described(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of an entry's source: its arguments, what it says about itself, and its revision."""
    arguments = {key: value for key, value in entry.items() if key not in ("about", "format")}
    facts: dict[str, Any] = {"format": entry["format"], "arguments": arguments, **(entry.get("about") or {})}
    revision = hub_revision(entry) if str(entry["format"]).startswith("hub") else None
    revision = revision or _digest(entry)
    return {**facts, "revision": revision} if revision else facts


def _digest(entry: dict[str, Any]) -> str | None:
    """Return a digest of all files that an entry names, read in order."""
    digest, count = hashlib.sha256(), 0
    for path in files_of(entry):
        digest.update(path.read_bytes())
        count += 1
    return f"sha256 {digest.hexdigest()[:16]} of {count} file{'s' * (count > 1)}" if count else None
