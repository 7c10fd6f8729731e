"""Mine hard negatives: by BM25 with the English question, or across languages with our own model."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from drdecr.data.bm25 import Bm25Index
from drdecr.data.cleaning import drop_leaks, drop_repeated
from drdecr.data.negatives import NegativeSettings, Ranking, rows_with_negatives
from drdecr.data.schema import QuestionSet, joined_passages
from drdecr.data.scorers import TeacherScorer
from drdecr.data.sources import read_questions
from drdecr.data.text_files import expanded
from drdecr.data.token_cache import TokenCache, Tokens
from drdecr.data.token_store import stored_documents, stored_queries
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex

from .measuring import load_reader
from .recipe import parse_overrides, read_yaml
from .sets import texts_of
from .settings import check_values, known_keys
from .step_card import is_step_done, write_step
from .step_inputs import input_digests

logger = logging.getLogger(__name__)

METHODS = ("bm25", "model")


@dataclass
class MiningSettings:
    """What is mined where, by whom.

    Args:
        questions: entries of question sets with `english`, and known passages or answers (`drdecr.data.sources`).
        pool: entries of more sets whose passages are searched.
        held_out: sets whose questions must not be in the rows.
        method: `bm25`, with the English question, or `model`: `reader` is asked the question as it stands.
        reader: checkpoint that searches, of method `model`: a student, whose negatives are those that it confuses.
        index: checkpoint that encodes the passages it searches; default: the same.
        teacher: checkpoint that scores what was found, with the English question, and drops what may well be an answer; needed
            by method `model`.
        depth: how far down a ranking candidates are taken from (default 200).
        num_candidates: see `drdecr.data.negatives.NegativeSettings`, as the next four.
        num_positives: see there.
        num_negatives: see there.
        max_share: see there.
        min_margin: see there.
        token_folder: where tokens of teacher and reader are kept for other calls and runs; default: in memory.
    """

    questions: list[dict[str, Any]] = field(default_factory=list)
    pool: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    method: str = "bm25"
    reader: str | None = None
    index: str | None = None
    teacher: str | None = None
    depth: int = 200
    num_candidates: int = 2
    num_positives: int = 3
    num_negatives: int = 100
    max_share: float = 0.95
    min_margin: float | None = None
    token_folder: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}.")
        if not self.questions:
            raise ValueError("questions: expected at least one question set, got none.")
        if self.method == "model" and not (self.reader and self.teacher):
            raise ValueError(
                "method `model`: expected a `reader` that searches and a `teacher` that scores. Name both."
            )
        if self.method == "bm25" and (self.reader or self.index):
            raise ValueError(
                "method `bm25`: expected no `reader` or `index`, which would have no effect. Leave them out."
            )
        self.negatives  # noqa: B018 - checks the numbers

    @property
    def negatives(self) -> NegativeSettings:
        """How many negatives, and which."""
        return NegativeSettings(
            self.num_candidates, self.num_positives, self.num_negatives, self.max_share, self.min_margin
        )


def load_mining(path: Path, overrides: list[str]) -> MiningSettings:
    """Read the settings from YAML and apply `--key value` overrides."""
    content = {**read_yaml(path), **parse_overrides(overrides)}
    known_keys(content, list(MiningSettings.__dataclass_fields__), str(path))
    check_values(content, MiningSettings, str(path))
    return MiningSettings(**content)


def mine(settings: MiningSettings, output: Path, license: str | None = None) -> Path:
    """Write n-way rows as a dataset: `mined_candidates` and `passages`.

    Args:
        settings: what is mined where, by whom.
        output: folder that is written whole or not at all; left alone if it was made with the same settings and
            from the same files.
        license: of the whole, for the card.

    Returns:
        The output folder.
    """
    inputs = input_digests(
        {name: getattr(settings, name) for name in ("questions", "pool", "held_out")},
        {name: getattr(settings, name) for name in ("reader", "index", "teacher")},
    )
    if is_step_done(output, asdict(settings), inputs):
        logger.warning("%s is mined already.", output)
        return output
    sets = [read_questions(entry) for entry in settings.questions]
    passages = joined_passages([*sets, *(read_questions(entry) for entry in settings.pool)])
    read = concatenate_datasets([_asked(found) for found in sets])
    questions = drop_leaks(drop_repeated(read, "questions"), texts_of(settings.held_out), "questions")
    if not len(questions):
        raise ValueError("questions: all of them stand in a held-out set. Give others to learn from.")
    scorer = _teacher(settings, questions, passages) if settings.teacher else None
    rankings = (
        _by_model(settings, questions, passages)
        if settings.method == "model"
        else _by_bm25(settings, questions, passages)
    )
    tokens = dict(zip(questions["english"], scorer.query_tokens(list(questions)), strict=True)) if scorer else None
    rows, counts = rows_with_negatives(
        questions, rankings, passages, settings.negatives, scorer.score if scorer else None, tokens
    )
    if not len(rows):
        raise ValueError(f"Expected rows, got none: {counts}. Search deeper, or ask for fewer negatives.")
    counts = {"questions dropped, repeated or held out": len(read) - len(questions), **counts}
    used = list(dict.fromkeys(name for ids in rows["document_ids"] for name in ids))
    documents = Dataset.from_dict({"document_id": used, "text": [passages[name] for name in used]})
    configs = {"mined_candidates": {"train": rows}, "passages": {"train": documents}}
    facts = {"settings": asdict(settings), "inputs": inputs}
    write_step(output, configs, "Mined candidates", _note(settings), facts, counts, license)
    return output


def _asked(found: QuestionSet) -> Dataset:
    """Return the columns that mining reads; an English set is its own translation."""
    rows = found.questions
    if "english" not in rows.column_names:
        if set(rows.unique("language")) != {"en"}:
            raise ValueError(f"{found.name}: expected a column `english`, got none. Translate it: `drdecr translate`.")
        rows = rows.add_column("english", rows["query"])
    answers = [found.answers.get(query_id, []) for query_id in rows["query_id"]]
    kept = rows.select_columns(["query_id", "query", "english", "language", "document_ids"])
    return kept.add_column("answers", answers)


def _by_bm25(settings: MiningSettings, questions: Dataset, passages: Mapping[str, str]) -> list[Ranking]:
    logger.info("Ranking %d passages for %d English questions by BM25.", len(passages), len(questions))
    return list(Bm25Index(passages).search(questions["english"][:], settings.depth, questions["document_ids"][:]))


def _by_model(settings: MiningSettings, questions: Dataset, passages: Mapping[str, str]) -> list[Ranking]:
    reader: Any = load_reader(str(settings.reader))
    encoder = load_reader(settings.index) if settings.index else reader
    kept = _documents(encoder, passages, settings)
    index = ExactIndex(list(kept.rows), [kept.tokens(name) for name in kept.rows])
    logger.info("Asking %s %d questions as they stand.", settings.reader, len(questions))
    hits = index.search(reader.encode_queries(questions["query"][:]), top_k=settings.depth)
    pairs = zip(hits.document_ids, hits.scores, strict=True)
    return [dict(zip(ids, scores, strict=True)) for ids, scores in pairs]


def _teacher(settings: MiningSettings, questions: Dataset, passages: Mapping[str, str]) -> TeacherScorer:
    teacher = load_reader(str(settings.teacher))
    folder = expanded(settings.token_folder) if settings.token_folder else None
    english = questions["english"][:]
    queries = stored_queries(teacher, english, folder) if folder else TokenCache.of_queries(teacher, english)
    return TeacherScorer(queries, _documents(teacher, passages, settings), {"name": settings.teacher})


def _documents(model: DrDecrModel, passages: Mapping[str, str], settings: MiningSettings) -> Tokens:
    if settings.token_folder:
        return stored_documents(model, passages, expanded(settings.token_folder))
    return TokenCache.of_documents(model, dict(passages))


def _note(settings: MiningSettings) -> str:
    def name(source: str | None) -> str:
        return Path(str(source)).name

    by_model = f"by `{name(settings.reader)}` with the question as it stands"
    found = by_model if settings.method == "model" else "by BM25 with the English question"
    scored = (
        f"`teacher_scores` are those of `{name(settings.teacher)}`, which read the English question."
        if settings.teacher
        else "`teacher_scores` are BM25's, which sum over no query tokens."
    )
    return f"Questions with a positive, which stands first, and hard negatives that were found {found}. {scored}"
