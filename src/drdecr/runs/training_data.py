"""A stage's training rows, made from its recipe: cleaned, with candidates, with the teacher's words looked up."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, List, Value, concatenate_datasets

from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings.cache import TokenCache, Tokens
from drdecr.data.embeddings.from_index import IndexTokens, check_index_maker
from drdecr.data.embeddings.store import StoredTokens, stored_documents, stored_queries
from drdecr.data.mixture import MixedSet, english_of, split_dev
from drdecr.data.prepare.cleaning import drop_leaks, drop_repeated, log_row_counts
from drdecr.data.readers.text import expanded
from drdecr.data.schema import QuestionSet, column_of, fill_english, joined_passages, require_english
from drdecr.data.sources import (
    QUESTION_READERS,
    question_texts,
    read_candidates,
    read_parallel,
    read_questions,
    read_tokens,
)
from drdecr.data.teacher.candidates import (
    add_negatives,
    add_positives,
    given_candidates,
    score_candidates,
    split_by_negatives,
)
from drdecr.modeling_drdecr import DrDecrModel

from .candidates import cached_candidates
from .recipe import ARGUMENTS, CANDIDATE_TERMS, ENGLISH_TERMS, DataSettings, Recipe

logger = logging.getLogger(__name__)

IDS = List(Value("string"))


@dataclass
class TrainingData:
    """What a trainer needs of the data.

    Args:
        train: rows, one set or a mixture.
        dev: rows cut off for the evaluation of the loss terms, by set; None without.
        collator: makes batches of them.
        counts: rows of each set, for the record.
        cleaning: rows read, and dropped for which reason, of each set.
        languages: of the questions and sentences, sorted.
    """

    train: Any
    dev: dict[str, Dataset] | None
    collator: DistillationCollator
    counts: dict[str, int]
    cleaning: dict[str, dict[str, int]]
    languages: list[str]


@dataclass
class CleanedSets:
    """A stage's rows before they are split and mixed.

    Args:
        rows: of each set, by its name in the recipe.
        passages: `{document_id: text}` of all collections.
        passage_cache: the reader's tokens of them, where they were needed.
        query_cache: the teacher's tokens of English texts, where they were needed to find candidates.
        cleaning: for each set how many rows were read, and how many went for which reason.
    """

    rows: dict[str, Dataset]
    passages: dict[str, str]
    passage_cache: Tokens | None
    query_cache: Tokens | None
    cleaning: dict[str, dict[str, int]]


def build_training_data(
    recipe: Recipe,
    student: DrDecrModel,
    teacher: DrDecrModel | None,
    num_steps: int,
    batch_size: int,
    seed: int,
    batches_a_step: int = 1,
) -> TrainingData:
    """Read, clean and annotate a stage's rows.

    Args:
        recipe: of the stage.
        student: its processor tokenises; it mines negatives where there is no teacher.
        teacher: finds candidates and fills the caches.
        num_steps: of the whole run, for laying out its rows; 0: as many as one pass has.
        batch_size: rows of one batch on one device.
        seed: of sampling and mixing.
        batches_a_step: accumulation steps times processes (default 1).
    """
    settings = recipe.data
    prepared = prepare_sets(recipe, teacher or student, seed)
    collator = _collator(recipe, student, teacher, prepared)
    parts = split_dev(prepared.rows, settings.dev_texts if recipe.is_evaluated else 0, seed)
    dev = {name: part for name, (_, part) in parts.items() if len(part)} or None
    train = _mixed(
        {name: part for name, (part, _) in parts.items()}, settings, num_steps, batch_size, seed, batches_a_step
    )
    counts = {name: len(part) for name, (part, _) in parts.items()}
    for name, cleaning in prepared.cleaning.items():
        log_row_counts(name, cleaning, *map(len, parts[name]))
    num_rows, rows_per_step = sum(counts.values()), batch_size * batches_a_step
    if num_rows < rows_per_step:
        logger.warning(
            "%d rows, %d a step: rows come several times in one step. Set a smaller `per_device_train_batch_size` or "
            "`gradient_accumulation_steps`.",
            num_rows,
            rows_per_step,
        )
    languages = {code for rows in prepared.rows.values() for code in rows.unique("language")}
    return TrainingData(train, dev, collator, counts, prepared.cleaning, sorted(languages))


def prepare_sets(recipe: Recipe, reader: DrDecrModel | None, seed: int, scored: bool = False) -> CleanedSets:
    """Read and clean every set of a recipe, and let the reader find and score candidates.

    Args:
        recipe: of the stage.
        reader: the teacher, or the student where there is none; None where nothing asks for candidates.
        seed: of sampling.
        scored: whether every candidate needs a score of the reader (default False: those of mined rows alone have one).
    """
    settings = recipe.data
    held_out = held_out_texts(recipe)
    questions = [read_questions(entry) for entry in settings.questions]
    candidate_sets = [read_candidates(entry) for entry in settings.scored_candidates]
    pools: list[Any] = [*questions, *(read_questions(entry) for entry in settings.corpus), *candidate_sets]
    passages = joined_passages(pools)
    sets: dict[str, Dataset] = {}
    cleaning: dict[str, dict[str, int]] = {}
    query_cache: Tokens | None = None

    def cleaned(rows: Dataset, name: str, is_unique: bool = False) -> Dataset:
        clean, cleaning[name] = _cleaned(rows, held_out, name, is_unique)
        limited = _limited(clean, settings.limits.get(name), seed)
        if len(limited) < len(clean):
            cleaning[name] |= {"over_limit": len(clean) - len(limited), "kept": len(limited)}
        return limited

    if settings.parallel:
        rows = cleaned(read_parallel(settings.parallel), "parallel", is_cleaned(settings))
        sets["parallel"] = _with_english(rows, settings.english_share, seed)
    given = mined = None
    if questions:
        rows = cleaned(concatenate_datasets(list(map(_question_rows, questions))), "questions")
        if scored or recipe.loss_terms & CANDIDATE_TERMS:
            given, mined = _by_negatives(recipe, rows, scored)
        else:
            sets["questions"] = require_english(rows.remove_columns(["document_ids", "irrelevant_ids"]), "questions")
    is_searched = bool(settings.unlabelled_queries or mined or (scored and given is not None))
    passage_cache = _passage_cache(recipe, reader, passages, is_searched)
    if given is not None and mined is not None:
        rows = _with_candidates(given, mined, settings.num_candidates, reader, passage_cache, seed)
        too_few = (cleaning["questions"]["kept"] if settings.negatives == "given" else len(given) + len(mined)) - len(
            rows
        )
        cleaning["questions"] |= {"too_few_negatives": too_few, "kept": len(rows)}
        sets["questions"] = rows
    if settings.unlabelled_queries:
        rows = cleaned(read_parallel(settings.unlabelled_queries), "unlabelled_queries")
        rows = _with_english(rows, settings.english_share, seed)
        if reader is not None and settings.cache_teacher and recipe.teacher:
            query_cache = read_english(reader, {**sets, "unlabelled_queries": rows}, settings.token_folder)
        if passage_cache is None or reader is None:
            raise ValueError(
                "data.unlabelled_queries needs a `corpus` of passages in which the teacher finds candidates. Name one."
            )
        sets["unlabelled_queries"] = cached_candidates(recipe, rows, reader, passages, passage_cache, query_cache)
    if candidate_sets:
        rows = concatenate_datasets([candidates.rows for candidates in candidate_sets])
        sets["scored_candidates"] = add_positives(cleaned(rows, "scored_candidates"))
    if not sets:
        names = "`parallel`, `questions`, `unlabelled_queries` and `scored_candidates`"
        raise ValueError(f"data: expected at least one of {names}, got none.")
    return CleanedSets(sets, passages, passage_cache, query_cache, cleaning)


def _by_negatives(recipe: Recipe, rows: Dataset, scored: bool) -> tuple[Dataset, Dataset]:
    """Return labelled rows that bring their negatives, and those whose are mined, with English where somebody reads it."""
    given, mined = split_by_negatives(rows, recipe.data.negatives)
    if len(mined) or scored or recipe.loss_terms & ENGLISH_TERMS:
        return require_english(given, "questions"), require_english(mined, "questions")
    return given.remove_columns("english") if None in given["english"][:] else given, mined


def read_english(teacher: DrDecrModel, sets: Mapping[str, Dataset], token_folder: str | None = None) -> Tokens:
    """Let the teacher read every English text of the sets, each once; what the folder holds is not read again."""
    english = [text for rows in sets.values() for text in english_of(rows) if text]
    logger.info("Reading %d English questions and sentences with the teacher.", len(set(english)))
    return (
        stored_queries(teacher, english, expanded(token_folder))
        if token_folder
        else TokenCache.of_queries(teacher, english)
    )


def english_cache(teacher: DrDecrModel, prepared: CleanedSets, token_folder: str | None = None) -> Tokens:
    """Return the teacher's tokens of every English text; what finding candidates has read already is not read again."""
    english = {text for rows in prepared.rows.values() for text in english_of(rows) if text}
    if prepared.query_cache is not None and all(text in prepared.query_cache for text in english):
        return prepared.query_cache
    return read_english(teacher, prepared.rows, token_folder)


def held_out_texts(recipe: Recipe) -> list[str]:
    """Return the questions, and their English, of what a recipe is measured on or told to hold out."""
    return texts_of([*recipe.data.held_out, *recipe.validation])


def texts_of(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Return the questions, and their English, of sets that must not be learnt."""
    texts: list[str] = []
    for entry in entries:
        entry = {name: value for name, value in entry.items() if name != "distractors"}
        if entry.get("format") == "texts":
            texts += question_texts(entry)
            continue
        rows = read_questions(entry).questions if entry.get("format") in QUESTION_READERS else read_parallel([entry])
        texts += rows["query"]
        texts += rows["english"] if "english" in rows.column_names else []
    return texts


def _question_rows(questions: QuestionSet) -> Dataset:
    rows = fill_english(questions.questions)
    if "irrelevant_ids" not in rows.column_names:
        rows = rows.add_column("irrelevant_ids", [[]] * len(rows), feature=IDS)
    for column in ("document_ids", "irrelevant_ids"):
        rows = rows if rows.features[column] == IDS else rows.cast_column(column, IDS)
    return rows.select_columns(["query_id", "query", "english", "language", "document_ids", "irrelevant_ids"])


def _with_candidates(
    given: Dataset,
    mined: Dataset,
    num_candidates: int,
    reader: DrDecrModel | None,
    passage_cache: Tokens | None,
    seed: int,
) -> Dataset:
    """Return rows with as many candidates each; the reader scores them where it has read the passages."""
    parts = []
    if len(given):
        part, num_candidates = given_candidates(given, num_candidates, seed)
        parts.append(part if passage_cache is None or reader is None else score_candidates(part, reader, passage_cache))
    if len(mined):
        if passage_cache is None or reader is None:
            raise ValueError("data.questions: expected a model that mines negatives, got none. Name a `teacher`.")
        rows = mined.remove_columns("irrelevant_ids")
        parts.append(add_negatives(rows, reader, passage_cache, num_candidates, seed=seed))
    if not parts:
        raise ValueError("data.questions: no row brings negatives. Set `negatives: mined`, or leave it out.")
    return concatenate_datasets(parts)


def is_cleaned(settings: DataSettings) -> bool:
    """Tell whether all parallel text is of prepared folders whose rows are believed to be different ones (`cleaned`)."""
    return bool(settings.parallel) and all(entry.get("cleaned") for entry in settings.parallel)


def _cleaned(rows: Dataset, held_out: list[str], name: str, is_unique: bool) -> tuple[Dataset, dict[str, int]]:
    once = rows if is_unique else drop_repeated(rows, name)
    clean = drop_leaks(once, held_out, name)
    if not len(clean):
        raise ValueError(f"data.{name}: all {len(rows)} rows stand in a held-out set. Give others to learn from.")
    counts = {"read": len(rows), "repeated": len(rows) - len(once), "held_out": len(once) - len(clean)}
    return clean, {**counts, "kept": len(clean)}


def _limited(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    return rows if limit is None or limit >= len(rows) else rows.shuffle(seed=seed).select(range(limit))


def _with_english(rows: Dataset, share: float, seed: int) -> Dataset:
    if share <= 0:
        return rows
    english = _limited(rows, round(share * len(rows)), seed)
    english = english.map(lambda row: {"query": row["english"], "language": "en"}, desc="adding English")
    return concatenate_datasets([rows, english])


def _passage_cache(
    recipe: Recipe, reader: DrDecrModel | None, passages: Mapping[str, str], is_searched: bool
) -> Tokens | None:
    settings = recipe.data
    used = is_searched or (settings.cache_passages and not settings.passage_tokens)
    if not passages or not used or reader is None:
        return None
    logger.info("Encoding %d passages with the %s.", len(passages), "teacher" if recipe.teacher else "student")
    if settings.token_folder:
        return stored_documents(reader, passages, expanded(settings.token_folder))
    return TokenCache.of_documents(reader, dict(passages))


def _mixed(
    sets: dict[str, Dataset], settings: DataSettings, num_steps: int, batch_size: int, seed: int, batches_a_step: int
) -> Any:
    temperature, source_weights = settings.language_temperature, settings.source_weights
    if source_weights is not None and not is_cleaned(settings):
        raise ValueError(
            "data.source_weights: expected `parallel` entries of `format: prepared` with `cleaned: true`, got others. Weigh "
            "whole sets with `weights` instead."
        )
    for key, is_given in (("language_temperature", temperature != 1), ("source_weights", source_weights is not None)):
        if is_given and not num_steps:
            raise ValueError(f"data.{key} needs `max_steps`: an epoch has every row once. Give `training.max_steps`.")
    sources = {"parallel": list(column_of(sets["parallel"], "source"))} if source_weights is not None else None
    sets = {
        name: rows.remove_columns("source") if "source" in rows.column_names else rows for name, rows in sets.items()
    }
    lengths = None  # of a large folder every text would be read before the first step
    if not is_cleaned(settings):
        lengths = {name: [len(text) for text in rows["query"]] for name, rows in sets.items()}
    has_groups = temperature != 1 or source_weights is not None
    languages = {name: list(column_of(rows, "language")) for name, rows in sets.items()} if has_groups else None
    drawn: tuple[Any, ...] = (seed, lengths, languages, temperature, sources, source_weights)
    if len(sets) == 1:
        if not num_steps:  # epochs, which the Trainer shuffles
            return next(iter(sets.values()))
        # Laid out by steps, so that accumulation and processes share out the rows that one large batch would have.
        return MixedSet(sets, batch_size * batches_a_step, num_steps, None, *drawn)
    one_pass = -(-sum(len(rows) for rows in sets.values()) // batch_size)
    return MixedSet(sets, batch_size, num_steps * batches_a_step or one_pass, settings.weights, *drawn)


def _collator(
    recipe: Recipe, student: DrDecrModel, teacher: DrDecrModel | None, prepared: CleanedSets
) -> DistillationCollator:
    settings = recipe.data
    query_cache = read_tokens(settings.query_tokens) if settings.query_tokens else None
    if query_cache is None and teacher is not None and settings.cache_teacher:
        query_cache = english_cache(teacher, prepared, settings.token_folder)
    document_cache = prepared.passage_cache if settings.cache_passages else None
    if settings.passage_tokens:
        document_cache = read_tokens(settings.passage_tokens)
        if isinstance(document_cache, StoredTokens):  # of texts, whatever their ids are here
            document_cache = document_cache.named(prepared.passages)
        elif isinstance(document_cache, IndexTokens):
            document_cache = check_index_maker(document_cache, teacher).named(prepared.passages)
    return DistillationCollator(
        student.processor,
        passages=prepared.passages,
        teacher_processor=teacher.processor if teacher is not None else None,
        query_cache=query_cache,
        document_cache=document_cache,
        anchor="english_anchor" in recipe.loss_terms,
        scores_suffice=recipe.training.get("relevance_over", ARGUMENTS[recipe.stage].relevance_over) == "row",
    )
