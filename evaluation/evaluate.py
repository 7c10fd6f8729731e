"""A model, a model over an index on disk, or a run file, measured on question sets by their protocols."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from drdecr.data.embeddings.store import stored_documents
from drdecr.data.provenance import PeakMemory, environment
from drdecr.data.schema import QuestionSet, check_query_ids
from drdecr.data.sources import read_questions
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex
from drdecr.retrieval.build import open_stored
from drdecr.retrieval.encoder import load_encoder, load_index_encoder
from drdecr.retrieval.retriever import DirectRetriever, as_run

from .metrics import Run
from .protocols import Protocol, check_answers, protocol_of, score_by_protocol, trimmed
from .results import EvaluationResult, summarize
from .runs import check_path, check_words, ids_of, read_run, write_qrels, write_run

logger = logging.getLogger(__name__)

PerQuery = dict[str, dict[str, float]]

QUESTIONS_PER_SEARCH = 64


@dataclass
class EvaluationSettings:
    """What `drdecr eval model` reads from YAML.

    Args:
        test: entries of question sets, at least one.
        collection: what they are searched in, in words; default: the sets' names.
        protocol: what is reported; default: what the format of each set says (`evaluation.protocols`).
    """

    test: list[dict[str, Any]] = field(default_factory=list)
    collection: str | None = None
    protocol: str | None = None

    def __post_init__(self) -> None:
        """Check that something is measured."""
        if not self.test:
            raise ValueError("expected `test:`, a list of question sets, got none.")


def encode_passages(model: DrDecrModel, found: QuestionSet, token_folder: Path | None = None) -> ExactIndex:
    """Encode a set's collection; what `token_folder` holds of this model is not encoded again."""
    if token_folder is not None:
        kept = stored_documents(model, found.passages, token_folder)
        return ExactIndex(list(kept.rows), [kept.tokens(name) for name in kept.rows])
    return ExactIndex(list(found.passages), model.encode_documents(list(found.passages.values())))


def search_questions(
    model: DrDecrModel, found: QuestionSet, index: ExactIndex, reads: str = "query", depth: int = 100
) -> dict[str, dict[str, float]]:
    """Return the best passages of every question and their scores; `reads` is the column that is asked."""
    texts = found.questions[reads]
    asked = list(dict.fromkeys(texts))
    hits = index.search(model.encode_queries(asked), top_k=min(depth, len(index)))
    rows = dict(zip(asked, hits.as_run(asked).values(), strict=True))
    return {query_id: rows[text] for query_id, text in zip(found.questions["query_id"], texts, strict=True)}


def check_sets(sets: Sequence[QuestionSet], reads: Iterable[str]) -> None:
    """Check that sets can be measured together, before anything is trained or searched.

    Args:
        sets: read from their entries.
        reads: the columns that are asked.

    Raises:
        ValueError: for two sets of one name or with one question id, or a set that is not in English and lacks a column.
    """
    for found in sets:
        if found.name in [other.name for other in sets if other is not found]:
            raise ValueError(f"test: expected sets whose names differ, got {found.name!r} twice. Give one a `name:`.")
    check_query_ids(sets)
    for found in sets:
        missing = next((column for column in reads if query_column(found, column) is None), None)
        if missing is not None:
            raise ValueError(
                f"{found.name}: expected a text to ask in every row of a column {missing!r}, got the columns "
                f"{', '.join(found.questions.column_names)}. Fill it, or leave the system out that reads it."
            )


def query_column(found: QuestionSet, reads: str) -> str | None:
    """Return the column that is asked, None if it is not filled: English questions are their own translation."""
    if reads in found.questions.column_names and all(found.questions[reads]):
        return reads
    return "query" if reads == "english" and set(found.questions.unique("language")) == {"en"} else None


def evaluate_model(
    source: str,
    settings: EvaluationSettings,
    index: str | None = None,
    reads: str = "query",
    run_file: Path | None = None,
    token_folder: Path | None = None,
) -> EvaluationResult:
    """Measure one checkpoint on question sets, every passage scored.

    Args:
        source: checkpoint folder or Hub name.
        settings: what is measured on.
        index: checkpoint that encodes the passages; default: the same.
        reads: column of the questions that is asked.
        run_file: where the best 100 passages a question (or as many as the protocol looks at) are written as a TREC run, the
            judgements beside it with the ending `.qrels`; default: nowhere.
        token_folder: where tokens of passages are kept (half precision), so that another call does not encode them again.

    Returns:
        The mean scores by language.

    Raises:
        ValueError: as in `check_sets`, `protocol_of` and `check_answers`; if
            a run is asked for and an id holds a blank.
        FileNotFoundError: if there is no folder for the run; before anything is searched.
    """
    memory = PeakMemory()
    tests = _read_tests(settings, [reads], run_file)
    model = load_encoder(source)
    reader = load_encoder(index) if index else model

    def search(questions: QuestionSet, depth: int) -> Run:
        column = query_column(questions, reads) or reads
        return search_questions(model, questions, encode_passages(reader, questions, token_folder), column, depth)

    notes = {"model": source, "index": index or source, "reads": reads}
    return _evaluate(tests, settings, search, notes, memory, run_file)


def evaluate_index(
    source: str, folder: Path, settings: EvaluationSettings, reads: str = "query", run_file: Path | None = None
) -> EvaluationResult:
    """Measure a checkpoint on question sets over an index on disk that holds their passages.

    Args:
        source: checkpoint folder or Hub name that reads the questions.
        folder: of an index of `drdecr index build`. Its documents are the sets' passages, each at its best part.
        settings: as in `evaluate_model`.
        reads: as in `evaluate_model`.
        run_file: as in `evaluate_model`.

    Raises:
        ValueError: as in `evaluate_model`, or if a document is retrieved that a set which looks for answers does not have.
    """
    memory = PeakMemory()
    tests = _read_tests(settings, [reads], run_file)
    index = open_stored(folder)
    model, identity = load_index_encoder(index.metadata, folder, source)
    retriever = DirectRetriever(model, index)

    def search(questions: QuestionSet, depth: int) -> Run:
        texts = questions.questions[query_column(questions, reads) or reads][:]
        documents = []
        starts = range(0, len(texts), QUESTIONS_PER_SEARCH)
        for start in tqdm(starts, desc="searching", unit="batch", disable=None):
            documents += retriever.search(texts[start : start + QUESTIONS_PER_SEARCH], depth)
        return as_run(questions.questions["query_id"][:], documents)

    notes = {"model": identity["model"], "index": str(folder), "indexed_passages": len(index), "reads": reads}
    return _evaluate(tests, settings, search, notes, memory, run_file)


def evaluate_run(file: Path, settings: EvaluationSettings) -> EvaluationResult:
    """Measure a TREC run of any system on question sets; a question without a line scores 0.

    Args:
        file: the run.
        settings: as in `evaluate_model`.

    Raises:
        ValueError: as in `read_run` and `evaluate_model`; for a run without any question of the sets, or with a passage that a
            set which looks for answers does not have.
    """
    memory = PeakMemory()
    run = read_run(file)
    tests = _read_tests(settings, [], None)
    query_ids = {query_id for questions, _ in tests for query_id in questions.languages}
    if run.keys().isdisjoint(query_ids):
        raise ValueError(
            f"{file}: expected lines of the {len(query_ids)} questions, such as {min(query_ids)!r}, got none. Check that run and "
            "test sets share their query ids."
        )
    if unknown := [query_id for query_id in run if query_id not in query_ids]:
        logger.warning("%s: %d queries are in no set and left out, the first %s.", file, len(unknown), unknown[0])
    if missing := sorted(query_ids - run.keys()):
        logger.warning("%s: %d questions have no line and score 0, the first %s.", file, len(missing), missing[0])

    def search(questions: QuestionSet, depth: int) -> Run:
        return {query_id: run[query_id] for query_id in questions.languages if query_id in run}

    return _evaluate(tests, settings, search, {"run": str(file)}, memory)


def _read_tests(
    settings: EvaluationSettings, reads: Sequence[str], run_file: Path | None
) -> list[tuple[QuestionSet, Protocol]]:
    """Read the sets and choose how each is measured; all that can be refused is refused here, before a search."""
    sets = [read_questions(entry) for entry in settings.test]
    check_sets(sets, reads)
    protocols = [protocol_of(*pair, settings.protocol) for pair in zip(settings.test, sets, strict=True)]
    check_answers(sets, protocols)
    if run_file is not None:
        check_words(ids_of(sets))
        check_path(run_file)
    return list(zip(sets, protocols, strict=True))


def _evaluate(
    tests: Sequence[tuple[QuestionSet, Protocol]],
    settings: EvaluationSettings,
    search: Callable[[QuestionSet, int], Run],
    notes: Mapping[str, Any],
    memory: PeakMemory,
    run_file: Path | None = None,
) -> EvaluationResult:
    """Search each set, score it by its protocol, keep the run, and summarise.

    Args:
        tests: sets with their protocols.
        settings: what they are read from.
        search: of a set and a depth, the best passages of its questions.
        notes: metadata of the result.
        memory: counted since the start.
        run_file: as in `evaluate_model`.
    """
    scores: PerQuery = {}
    run: dict[str, dict[str, float]] = {}
    facts_by_set: dict[str, dict[str, Any]] = {}
    for questions, protocol in tqdm(tests, desc="measuring", unit="set", disable=None):
        hits = search(questions, protocol.depth + protocol.leaves_out_own_id)
        by_measure, facts_by_set[questions.name] = score_by_protocol(questions, hits, protocol)
        run.update(trimmed(hits, protocol))
        _add(scores, by_measure)
        _warn_of_losses(questions.name, facts_by_set[questions.name])
    sets = [questions for questions, _ in tests]
    if run_file is not None:
        qrels = {query_id: judged for questions in sets for query_id, judged in questions.qrels.items()}
        write_qrels(run_file.with_suffix(".qrels"), qrels)
        write_run(run_file, run, tag="-".join(Path(notes["model"]).name.split()) or "drdecr")
    facts = environment()
    return summarize(
        scores,
        {query_id: code for questions in sets for query_id, code in questions.languages.items()},
        collection=settings.collection or ", ".join(questions.name for questions in sets),
        data_version=data_version(sets, [content_digest(questions) for questions in sets]),
        command=facts["command"],
        notes={
            **notes,
            "sets": facts_by_set,
            "hardware": facts["hardware"],
            "git_commit": facts["git_commit"],
            **memory.peaks,
        },
    )


def _warn_of_losses(name: str, facts: Mapping[str, Any]) -> None:
    missed = max(facts.get("missed_with_short_list", {}).values(), default=0)
    if missed:
        logger.warning(
            "%s: %d questions found no answer, and their passages ended before the budget of tokens: the figures are lower "
            "bounds. Longer passages, or a deeper ranking, might have hit.",
            name,
            missed,
        )
    if facts.get("relevant_with_query_id"):
        logger.warning(
            "%s: %d relevant passages have their query's id and were left out of the ranking, as BEIR does: these questions "
            "cannot be answered by them. If the ids are unrelated, rename one side or set `protocol: default`.",
            name,
            facts["relevant_with_query_id"],
        )


def _add(scores: PerQuery, more: PerQuery) -> None:
    for name, by_query in more.items():
        scores.setdefault(name, {}).update(by_query)


def content_digest(found: QuestionSet) -> str:
    """Return what tells a test set from another that is read from the same entry, or has the same name and number of rows."""
    digest = hashlib.sha256(json.dumps(found.questions.to_dict(), ensure_ascii=False, sort_keys=True).encode())
    for document_id, text in found.passages.items():
        digest.update(json.dumps([document_id, text]).encode())
    return digest.hexdigest()


def data_version(sets: Sequence[QuestionSet], digests: Sequence[str]) -> str:
    """Say which questions, over how many passages, were asked: by content, since a name or a count fits other data too.

    Args:
        sets: that were asked.
        digests: their `content_digest`, of which the first twelve signs are said.
    """
    return ", ".join(
        f"{found.name}: {len(found.questions)} questions, {len(found.passages)} passages (sha256 {digest[:12]})"
        for found, digest in zip(sets, digests, strict=True)
    )
