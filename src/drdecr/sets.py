"""A stage's training rows, made from its recipe: cleaned, with candidates, with the teacher's words looked up."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets, load_from_disk

from drdecr.data.candidates import add_negatives, retrieve_candidates
from drdecr.data.cleaning import drop_leaks, drop_repeated, normalised
from drdecr.data.collators import DistillationCollator
from drdecr.data.formats import read_texts
from drdecr.data.mixture import MixedSet
from drdecr.data.schema import QuestionSet
from drdecr.data.sources import QUESTION_READERS, read_parallel, read_questions
from drdecr.data.token_cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel

from .recipe import DataSettings, Recipe

logger = logging.getLogger(__name__)


@dataclass
class TrainingData:
    """What a trainer needs of the data.

    Args:
        train: rows, one set or a mixture.
        dev: rows cut off for the evaluation of the loss terms, by set; None without.
        collator: makes batches of them.
        counts: rows of each set, for the record.
        dropped: rows of each set that stood in a held-out set, for the record.
    """

    train: Any
    dev: dict[str, Dataset] | None
    collator: DistillationCollator
    counts: dict[str, int]
    dropped: dict[str, int] = field(default_factory=dict)


def build_training_data(
    recipe: Recipe, student: DrDecrModel, teacher: DrDecrModel | None, num_batches: int, batch_size: int, seed: int
) -> TrainingData:
    """Read, clean and annotate a stage's rows.

    Args:
        recipe: of the stage.
        student: its processor tokenises; it mines negatives where there is no teacher.
        teacher: finds candidates and fills the caches.
        num_batches: batches of the whole run on all processes, for laying out a mixture; 0: as many as one pass has.
        batch_size: rows of one batch on one device.
        seed: of sampling and mixing.
    """
    settings = recipe.data
    held_out = held_out_texts(recipe)
    questions = [read_questions(entry) for entry in settings.questions]
    pools = [*questions, *(read_questions(entry) for entry in settings.pool)]
    passages = {document_id: text for found in pools for document_id, text in found.passages.items()}
    reader = teacher or student
    passage_cache = _passage_cache(recipe, reader, passages)
    sets: dict[str, Dataset] = {}
    dropped: dict[str, int] = {}
    if settings.parallel:
        rows = _cleaned(read_parallel(settings.parallel), held_out, "parallel", dropped)
        sets["parallel"] = _with_english(
            _limited(rows, settings.limits.get("parallel"), seed), settings.english_share, seed
        )
    if questions and passage_cache is not None:
        rows = concatenate_datasets([_question_rows(found) for found in questions])
        rows = _limited(_cleaned(rows, held_out, "questions", dropped), settings.limits.get("questions"), seed)
        sets["questions"] = add_negatives(rows, reader, passage_cache, settings.num_candidates, seed=seed)
    if settings.unlabelled:
        rows = _cleaned(read_parallel(settings.unlabelled), held_out, "unlabelled", dropped)
        rows = _limited(rows, settings.limits.get("unlabelled"), seed)
        rows = _with_english(rows, settings.english_share, seed)
        sets["unlabelled"] = _candidates(recipe, rows, reader, passage_cache)
    if not sets:
        raise ValueError("data: expected at least one of `parallel`, `questions` and `unlabelled`, got none.")
    collator = _collator(recipe, student, teacher, passages, passage_cache, sets)
    parts = cut_dev(sets, settings.dev_texts, seed)
    dev = {name: part for name, (_, part) in parts.items() if len(part)} or None
    train = _mixed({name: part for name, (part, _) in parts.items()}, settings, num_batches, batch_size, seed)
    return TrainingData(train, dev, collator, {name: len(part) for name, (part, _) in parts.items()}, dropped)


def cut_dev(sets: Mapping[str, Dataset], num_texts: int, seed: int) -> dict[str, tuple[Dataset, Dataset]]:
    """Cut rows off for evaluation by their English text: a text is of dev in every set and translation, or in none.

    Args:
        sets: rows with `english`, by name.
        num_texts: how many texts a set gives at most; never more than a fifth of its own.
        seed: of the choice.

    Returns:
        Training and dev rows of each set.
    """
    keys = {name: [normalised(text) for text in rows["english"]] for name, rows in sets.items()}
    room = {name: min(num_texts, len(set(found)) // 5) for name, found in keys.items()}
    homes: dict[str, list[str]] = {}
    for name, found in keys.items():
        for key in set(found):
            homes.setdefault(key, []).append(name)
    chosen: set[str] = set()
    texts = sorted({text for rows in sets.values() for text in rows.unique("english")})
    for text in np.random.default_rng(seed).permutation(np.array(texts, dtype=object)).tolist():
        key = normalised(text)
        if key not in chosen and all(room[name] for name in homes[key]):
            chosen.add(key)
            for name in homes[key]:
                room[name] -= 1
    parts = {}
    for name, rows in sets.items():
        is_dev = np.array([key in chosen for key in keys[name]], dtype=bool)
        parts[name] = (rows.select(np.flatnonzero(~is_dev)), rows.select(np.flatnonzero(is_dev)))
    return parts


def held_out_texts(recipe: Recipe) -> list[str]:
    """Return the questions, and their English, of what a recipe is measured on or told to hold out."""
    entries = [*recipe.data.held_out, *recipe.validation]
    texts: list[str] = []
    for entry in entries:
        if entry.get("format") == "texts":
            texts += read_texts(entry["path"], entry.get("column", "question"))
            continue
        rows = read_questions(entry).questions if entry.get("format") in QUESTION_READERS else read_parallel([entry])
        texts += rows["query"]
        texts += rows["english"] if "english" in rows.column_names else []
    return texts


def _question_rows(found: QuestionSet) -> Dataset:
    rows = found.questions
    if "english" not in rows.column_names:  # an English set is its own translation
        rows = rows.add_column("english", rows["query"])
    return rows.select_columns(["query_id", "query", "english", "language", "document_ids"])


def _cleaned(rows: Dataset, held_out: list[str], name: str, dropped: dict[str, int]) -> Dataset:
    """Drop repeated and held-out rows; how many were held out is noted in `dropped`."""
    once = drop_repeated(rows, name)
    kept = drop_leaks(once, held_out, name)
    dropped[name] = len(once) - len(kept)
    if not len(kept):
        raise ValueError(f"data.{name}: all {len(rows)} rows stand in a held-out set. Give others to learn from.")
    return kept


def _limited(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    return rows if limit is None or limit >= len(rows) else rows.shuffle(seed=seed).select(range(limit))


def _with_english(rows: Dataset, share: float, seed: int) -> Dataset:
    if share <= 0:
        return rows
    english = _limited(rows, round(share * len(rows)), seed)
    english = english.map(lambda row: {"query": row["english"], "language": "en"}, desc="adding English")
    return concatenate_datasets([rows, english])


def _passage_cache(recipe: Recipe, reader: DrDecrModel, passages: Mapping[str, str]) -> TokenCache | None:
    settings = recipe.data
    if not passages or not (settings.questions or settings.unlabelled):
        return None
    logger.info("Encoding %d passages with the %s.", len(passages), "teacher" if recipe.teacher else "student")
    return TokenCache.of_documents(reader, dict(passages))


def _candidates(recipe: Recipe, rows: Dataset, teacher: DrDecrModel, passages: TokenCache | None) -> Dataset:
    """Find candidates once a run: they are kept in its folder, so that a resumed run reads them."""
    if passages is None:
        raise ValueError("data.unlabelled needs a `pool` of passages in which the teacher finds candidates. Name one.")
    folder = recipe.folder / "candidates"
    settings = recipe.data
    with PartialState().main_process_first():  # the others read what the first one found
        if not (folder / "dataset_info.json").exists():
            logger.info("Finding candidates for %d questions in %d passages.", len(rows), len(passages))
            found = retrieve_candidates(rows, teacher, passages, settings.num_candidates, settings.candidate_depth)
            unfinished = folder.with_name(".candidates.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            found.save_to_disk(str(unfinished))
            unfinished.rename(folder)
        return load_from_disk(str(folder))


def _mixed(sets: dict[str, Dataset], settings: DataSettings, num_batches: int, batch_size: int, seed: int) -> Any:
    if len(sets) == 1:
        return next(iter(sets.values()))
    one_pass = -(-sum(len(rows) for rows in sets.values()) // batch_size)
    return MixedSet(sets, batch_size, num_batches or one_pass, settings.weights, seed)


def _collator(
    recipe: Recipe,
    student: DrDecrModel,
    teacher: DrDecrModel | None,
    passages: dict[str, str],
    passage_cache: TokenCache | None,
    sets: dict[str, Dataset],
) -> DistillationCollator:
    settings = recipe.data
    query_cache = None
    if teacher is not None and settings.cache_teacher:
        english = [text for rows in sets.values() for text in rows.unique("english")]
        logger.info("Reading %d English questions and sentences with the teacher.", len(set(english)))
        query_cache = TokenCache.of_queries(teacher, english)
    return DistillationCollator(
        student.processor,
        passages=passages,
        teacher_processor=teacher.processor if teacher is not None else None,
        query_cache=query_cache,
        document_cache=passage_cache if settings.cache_passages else None,
        anchor=bool(recipe.training.get("anchor_weight", 0.5 if recipe.stage == "representation" else 0.0)),
    )
