"""Mine hard negatives: by BM25 with the English question, or across languages with our own model."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Dataset, Features, List, Value

from drdecr.data.cards import is_step_done, write_step
from drdecr.data.embeddings.store import stored_documents, stored_queries
from drdecr.data.files import TextKeys, text_key
from drdecr.data.languages import normalise_text
from drdecr.data.passages import PassageStore, mapped_rows, merge_passages, passage_rows
from drdecr.data.prepare.leakage import HeldOutPassages
from drdecr.data.readers.text import expanded
from drdecr.data.schema import BATCH, QuestionSet, check_query_ids, require_english
from drdecr.data.shards import (
    join_processes,
    map_in_shards,
    read_shards,
    remove_work,
    sum_counts,
    unfinished_work,
    with_counts,
)
from drdecr.data.sources import held_out_of, input_digests, read_questions
from drdecr.modeling_drdecr import DrDecrTeacher
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.encoder import load_encoder
from drdecr.retrieval.stored.codecs import CODECS

from .annotate import referenced_passages
from .bm25 import Bm25Index
from .negatives import ROW_FEATURES, NegativeSettings, rows_with_negatives
from .rankings import QUESTIONS_PER_SHARD, PoolSearch, bm25_ranker, encode_pool, model_ranker, rank_in_shards
from .scorers import TeacherScorer

logger = logging.getLogger(__name__)

DROPPED = "questions dropped, repeated or held out"
LEAKS = {"held_out": "passages of rows that answer a held-out question", "overlap": "passages of rows that nearly do"}

QUESTION_SCHEMA = Features(
    dict.fromkeys(("query_id", "query", "english", "language"), Value("string"))
    | {"document_ids": List(Value("string")), "answers": List(Value("string"))}
).arrow_schema
"""What mining reads of a question."""


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
    facts = {"settings": asdict(settings), "inputs": inputs}
    if is_step_done(output, facts["settings"], inputs):
        remove_work(output)
        return output
    state = join_processes()
    with unfinished_work(output, facts) as folder:
        rows, passages, counts = _mine_rows(settings, folder)
        if state.is_main_process:
            configs = {"mined_candidates": {"train": rows}, "passages": {"train": passage_rows(passages)}}
            write_step(output, configs, "Mined candidates", _note(settings), facts, counts, license)
    return output


def _mine_rows(settings: MiningSettings, folder: Path) -> tuple[Dataset, PassageStore, dict[str, int]]:
    """Return the rows, the passages that they name, and what was counted."""
    models = _load_models(settings)
    sets = [read_questions(entry) for entry in settings.questions]
    check_query_ids(sets)  # by its id a row's scores are looked up
    passages = merge_passages([*sets, *(read_questions(entry) for entry in settings.corpus)])
    held_out, held_out_passages = _read_held_out(settings)
    questions, dropped = select_questions(sets, held_out)
    logger.info("Ranking %d passages for %d questions by %s.", len(passages), len(questions), settings.method)
    rankings = _rank(settings, models, folder, questions, passages)
    scorer = _read_by_teacher(settings, models, folder, questions, rankings, passages) if settings.teacher else None
    shards = choose_candidates(questions, rankings, passages, settings.negatives, scorer, folder / "rows")
    counts = {DROPPED: dropped, **sum_counts(shards)}
    if not counts["rows"]:
        shutil.rmtree(folder)  # for other settings
        raise ValueError(f"Expected rows, got none: {counts}. Search deeper, or ask for fewer negatives.")
    rows = read_shards(shards)
    named = referenced_passages(rows, passages)
    return rows, named, {**counts, **count_leaks(named, held_out_passages)}


def _read_held_out(settings: MiningSettings) -> tuple[list[str], HeldOutPassages]:
    """Return the questions that must not be learnt from, and the passages that answer them."""
    texts: list[str] = []
    passages: list[str] = []
    for entry in settings.held_out:
        questions, answering = held_out_of({name: value for name, value in entry.items() if name != "distractors"})
        texts += questions
        passages += answering
    return texts, HeldOutPassages(passages)


def _load_models(settings: MiningSettings) -> dict[str, DrDecrTeacher]:
    """Load every model by its name, before anything is made: one that cannot be loaded must not cost the pool's encoding."""
    names = dict.fromkeys(name for name in (settings.reader, settings.index, settings.teacher) if name)
    return {name: load_encoder(name) for name in names}


def select_questions(sets: Sequence[QuestionSet], held_out: Iterable[str]) -> tuple[Dataset, int]:
    """Return what mining reads of questions that neither repeat an earlier one nor are held out, and how many are left out.

    A question that stands several times has the passages and answers of all its rows: none of them may become a negative.

    Raises:
        ValueError: for a question in another language without its English, or if all are left out.
    """
    forbidden = {text_key(normalise_text(text)) for text in held_out}
    is_used: list[bool] = []
    keys = bytearray()
    filled = [require_english(question_set.questions, question_set.name) for question_set in sets]
    for row in _question_rows(filled):
        texts = [normalise_text(row["query"]), normalise_text(row["english"])]
        keys += text_key("\n".join(texts))
        is_used.append(forbidden.isdisjoint(map(text_key, texts)))
    is_first = np.zeros(len(is_used), dtype=np.bool_)
    text_keys = TextKeys(keys)
    is_first[text_keys.different()] = True
    selected = is_first & np.array(is_used)
    if not selected.any():
        raise ValueError("questions: all of them stand in a held-out set. Give others to learn from.")
    later: dict[bytes, list[dict[str, Any]]] = {}
    for place, row in enumerate(_question_rows(filled)):
        if not is_first[place]:
            later.setdefault(text_keys[place], []).append(row)

    rows = (
        _with_known(row, later.get(text_keys[place], ()))
        for place, row in enumerate(_question_rows(filled))
        if selected[place]
    )
    questions = mapped_rows(lambda: rows, QUESTION_SCHEMA.names, "questions", QUESTION_SCHEMA)
    return questions, len(selected) - len(questions)


def _with_known(row: dict[str, Any], later: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a question's row with the passages and answers that later rows of the same question name."""
    merged = {name: list(row[name] or ()) for name in ("document_ids", "answers")}
    for other in later:
        for name, values in merged.items():
            values += [value for value in other[name] or () if value not in values]
    return {**row, **merged}


def _question_rows(sets: Iterable[Dataset]) -> Iterator[dict[str, Any]]:
    """Yield the columns that mining reads; one answer is a list of one."""
    for questions in sets:
        for batch in questions.iter(BATCH):
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                yield {**row, "answers": row.get("answers") or ([row["answer"]] if row.get("answer") else [])}


def _rank(
    settings: MiningSettings,
    models: Mapping[str, DrDecrTeacher],
    folder: Path,
    questions: Dataset,
    passages: PassageStore,
) -> list[Path]:
    """Rank passages for each question, in shards."""
    if settings.method == "bm25":
        with PartialState().main_process_first():  # the others open what the first one made
            words = Bm25Index(passages, folder=folder / "bm25")
        return rank_in_shards(bm25_ranker(words, settings.depth), questions, passages, folder / "rankings")
    encoder = models[str(settings.index or settings.reader)]
    with PartialState().main_process_first():
        encoded = encode_pool(encoder, passages, _token_folder(settings) or folder, settings.codec)
    with StoredIndex.open(encoded, verify=False) as index:
        rank = model_ranker(index, models[str(settings.reader)], settings.depth, settings.search)
        return rank_in_shards(rank, questions, passages, folder / "rankings")


def _token_folder(settings: MiningSettings) -> Path | None:
    return expanded(settings.token_folder) if settings.token_folder else None


def _read_by_teacher(
    settings: MiningSettings,
    models: Mapping[str, DrDecrTeacher],
    folder: Path,
    questions: Dataset,
    rankings: Sequence[Path],
    passages: PassageStore,
) -> TeacherScorer:
    """Let the teacher read the questions, and of the pool what was ranked or is labelled."""
    teacher = models[str(settings.teacher)]
    token_folder = _token_folder(settings) or folder / "tokens"
    queries = stored_queries(teacher, questions["english"], token_folder, named=False)
    documents = stored_documents(teacher, ranked_passages(questions, rankings, passages), token_folder)
    return TeacherScorer(queries, documents, {"name": settings.teacher})


def ranked_passages(questions: Dataset, rankings: Iterable[Path], passages: PassageStore) -> PassageStore:
    """Return the passages that stand in a ranking or are labelled: those that a teacher must read."""
    is_read = np.zeros(passages.num_rows, dtype=np.bool_)
    for shard in rankings:
        is_read[pa.compute.list_flatten(pq.read_table(shard)["rows"]).to_numpy()] = True
    for batch in questions.select_columns("document_ids").iter(BATCH):
        is_read[[passages.row_of(name) for ids in batch["document_ids"] for name in ids]] = True
    return passages.only(is_read)


def choose_candidates(
    questions: Dataset,
    rankings: Sequence[Path],
    passages: PassageStore,
    settings: NegativeSettings,
    scorer: TeacherScorer | None,
    folder: Path,
) -> list[Path]:
    """Choose positives and negatives (`rows_with_negatives`), a shard of the questions at a time."""

    def choose_part(part: range) -> pa.Table:
        batch = questions.select(part).to_list()
        ranked = pq.read_table(rankings[part.start // QUESTIONS_PER_SHARD]).to_pylist()
        scores = [dict(zip(map(passages.id_at, row["rows"]), row["scores"], strict=True)) for row in ranked]
        tokens = None
        if scorer is not None:
            tokens = dict(zip([row["english"] for row in batch], scorer.query_tokens(batch), strict=True))
        rows, counts = rows_with_negatives(batch, scores, passages, settings, scorer.score if scorer else None, tokens)
        schema = Features(ROW_FEATURES).arrow_schema
        return with_counts(rows.with_format("arrow")[:] if len(rows) else schema.empty_table(), counts)

    return map_in_shards(len(questions), choose_part, folder, {}, QUESTIONS_PER_SHARD, "choosing")


def count_leaks(passages: Mapping[str, str], held_out: HeldOutPassages) -> dict[str, int]:
    """Count the passages that tests are answered by."""
    leaks = Counter(held_out.leak(text) for text in passages.values()) if len(held_out) else Counter()
    return {meaning: leaks[leak] for leak, meaning in LEAKS.items()}


def _note(settings: MiningSettings) -> str:
    def name(source: str | None) -> str:
        return Path(str(source)).name

    ranked_by = "by BM25 with the English question"
    if settings.method == "model":
        ranked_by = f"by `{name(settings.reader)}` with the question as it stands"
    scored = (
        f"`teacher_scores` are those of `{name(settings.teacher)}`, which read the English question."
        if settings.teacher
        else "`teacher_scores` are BM25's, which sum over no query tokens."
    )
    return f"Questions with a positive, which stands first, and hard negatives that were found {ranked_by}. {scored}"
