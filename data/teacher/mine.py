"""Mine hard negatives: by BM25 with the English question, or across languages with our own model."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drdecr.data.cards import write_step
from drdecr.data.embeddings.store import stored_documents, stored_queries
from drdecr.data.passages import PassageStore, merge_passages
from drdecr.data.prepare.leakage import HeldOutPassages
from drdecr.data.readers.text import expanded
from drdecr.data.row_parts import RowParts
from drdecr.data.schema import check_query_ids
from drdecr.data.sources import held_out_of, input_digests, read_questions
from drdecr.data.step_work import StepWork, run_step
from drdecr.modeling_drdecr import DrDecrTeacher
from drdecr.retrieval.encoder import load_encoder
from drdecr.retrieval.stored.codecs import CODECS

from .mined_rows import build_candidate_rows, english_texts, passages_in, referenced_passages, select_questions
from .negatives import NegativeSettings
from .rankings import PoolSearch, bm25_rankings, model_rankings
from .scorers import TeacherScorer

logger = logging.getLogger(__name__)

METHODS = ("bm25", "model")


@dataclass
class MiningSettings:
    """What is mined where, by whom.

    Args:
        questions: entries of question sets with `english`, and known passages or answers (`drdecr.data.sources`).
        corpus: entries of more sets whose passages are searched.
        held_out: sets whose questions must not be in the rows.
        method: `bm25`, with the English question, or `model`: `reader` is asked the question as it stands.
        reader: checkpoint that searches, of method `model`: a student, whose negatives are those that it confuses.
        index: checkpoint that encodes the passages it searches; default: the same.
        teacher: checkpoint that scores what was found, with the English question, and drops what may well be an answer; needed
            by method `model`.
        depth: how far down a ranking candidates are taken from (default 200).
        num_candidates: see `drdecr.data.teacher.negatives.NegativeSettings`, as the next four.
        num_positives: see there.
        num_negatives: see there.
        max_share: see there.
        min_margin: see there.
        token_folder: where the teacher's tokens and the reader's index are kept for other calls and runs; default: beside the
            output, until it is done.
        codec: of the index that `reader` searches: `float16` (default), `int8`, `residual4` or `residual2`
            (docs/retrieval.md has what each costs).
        search: of method `model`: which passages `reader` scores, `{by: ..., num_candidates: ...}`
            (`drdecr.data.teacher.rankings.PoolSearch`); default: all of the pool.
    """

    questions: list[dict[str, Any]] = field(default_factory=list)
    corpus: list[dict[str, Any]] = field(default_factory=list)
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
    codec: str = "float16"
    search: PoolSearch = field(default_factory=PoolSearch)

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
        if self.method == "bm25" and (self.reader or self.index or self.search != PoolSearch()):
            raise ValueError(
                "method `bm25`: expected no `reader`, `index` or `search`, which would have no effect. Leave them out."
            )
        if self.depth < 1:
            raise ValueError(f"depth: expected at least 1, got {self.depth}. Leave it out for the default.")
        if not self.teacher and (self.min_margin is not None or self.max_share != type(self).max_share):
            raise ValueError(
                "Without a `teacher` no candidate is dropped for its score: expected no `max_share` or `min_margin`, which "
                "would have no effect. Leave them out, or name a teacher."
            )
        if self.codec not in CODECS:
            raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {self.codec!r}.")
        if self.search.by == "centroids" and not self.codec.startswith("residual"):
            raise ValueError(
                f"search.by: candidates by centroids need residual codes, got codec {self.codec!r}. Give `codec: residual4`."
            )
        if self.search.by != "exact" and self.search.num_candidates < self.depth:
            raise ValueError(
                f"search.num_candidates: expected at least as many as `depth`, {self.depth}, got "
                f"{self.search.num_candidates}. Five times the depth, say."
            )
        self.negatives  # noqa: B018 - checks the numbers

    @property
    def negatives(self) -> NegativeSettings:
        """How many negatives, and which."""
        return NegativeSettings(
            self.num_candidates, self.num_positives, self.num_negatives, self.max_share, self.min_margin
        )


def mine(settings: MiningSettings, output: Path, license: str | None = None) -> Path:
    """Write n-way rows as a dataset: `mined_candidates` and `passages`.

    Args:
        settings: what is mined where, by whom.
        output: folder that is written whole or not at all; left alone if it was made with the same settings and
            from the same files. Until it is done `OUTPUT.parts` stands beside it, from which a killed call goes on.
        license: of the whole, for the card.

    Returns:
        The output folder.
    """
    inputs = input_digests(
        {name: getattr(settings, name) for name in ("questions", "corpus", "held_out")},
        {name: getattr(settings, name) for name in ("reader", "index", "teacher")},
    )
    return run_step(output, asdict(settings), inputs, lambda work: _mine(settings, work, license))


def _mine(settings: MiningSettings, work: StepWork, license: str | None) -> None:
    models = _models(settings)
    sets = [read_questions(entry) for entry in settings.questions]
    check_query_ids(sets)  # by its id a row's scores are looked up
    passages = merge_passages([*sets, *(read_questions(entry) for entry in settings.corpus)])
    held_out, held_out_passages = _held_out(settings)
    questions = select_questions(work, sets, held_out)
    if not len(questions):
        work.remove()
        raise ValueError("questions: all of them stand in a held-out set. Give others to learn from.")
    rankings = _rankings(settings, models, work, questions, passages)
    scorer = _teacher(settings, models, work, questions, rankings, passages) if settings.teacher else None
    rows = build_candidate_rows(work, questions, rankings, passages, settings.negatives, scorer)
    counts = {**questions.counts(), **rows.counts()}
    if not len(rows):
        work.remove()
        raise ValueError(f"Expected rows, got none: {counts}. Search deeper, or ask for fewer negatives.")
    documents, leaks = referenced_passages(work, rows, passages, held_out_passages)
    configs = {"mined_candidates": {"train": rows}, "passages": {"train": documents}}
    write_step(work.output, configs, "Mined candidates", _note(settings), work.facts, {**counts, **leaks}, license)


def _held_out(settings: MiningSettings) -> tuple[list[str], HeldOutPassages]:
    """Return the questions that must not be learnt from, and the passages that answer them."""
    texts: list[str] = []
    passages: list[str] = []
    for entry in settings.held_out:
        own = held_out_of({name: value for name, value in entry.items() if name != "distractors"})
        texts += own[0]
        passages += own[1]
    return texts, HeldOutPassages(passages)


def _models(settings: MiningSettings) -> dict[str, DrDecrTeacher]:
    """Load every model by its name, before anything is made: one that cannot be loaded must not cost the pool's encoding."""
    named = dict.fromkeys(name for name in (settings.reader, settings.index, settings.teacher) if name)
    return {name: load_encoder(name) for name in named}


def _rankings(
    settings: MiningSettings,
    models: Mapping[str, DrDecrTeacher],
    work: StepWork,
    questions: RowParts,
    passages: PassageStore,
) -> RowParts:
    logger.info("Ranking %d passages for %d questions by %s.", len(passages), len(questions), settings.method)
    if settings.method == "bm25":
        return bm25_rankings(work, questions, passages, settings.depth)
    return model_rankings(
        work,
        questions,
        passages,
        models[str(settings.reader)],
        models[str(settings.index or settings.reader)],
        settings.depth,
        settings.codec,
        settings.search,
        _token_folder(settings),
    )


def _token_folder(settings: MiningSettings) -> Path | None:
    return expanded(settings.token_folder) if settings.token_folder else None


def _teacher(
    settings: MiningSettings,
    models: Mapping[str, DrDecrTeacher],
    work: StepWork,
    questions: RowParts,
    rankings: RowParts,
    passages: PassageStore,
) -> TeacherScorer:
    """Let the teacher read the questions, and of the pool what was found."""
    teacher = models[str(settings.teacher)]
    folder = _token_folder(settings) or work.folder / "tokens"
    queries = stored_queries(teacher, english_texts(questions), folder, named=False)
    documents = stored_documents(teacher, passages_in(questions, rankings, passages), folder)
    return TeacherScorer(queries, documents, {"name": settings.teacher})


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
