"""Every system of a pipeline measured on its test sets, what each found kept, and the student compared with the others."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
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
from drdecr.retrieval.encoder import load_encoder

from .protocols import check_answers, protocol_of, score_by_protocol, trimmed
from .results import EvaluationResult, summarize
from .runs import check_words, ids_of, write_qrels, write_run

logger = logging.getLogger(__name__)

PerQuery = dict[str, dict[str, float]]


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
    """Measure one checkpoint on question sets.

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
    sets = [read_questions(entry) for entry in settings.test]
    check_sets(sets, [reads])
    protocols = [protocol_of(*pair, settings.protocol) for pair in zip(settings.test, sets, strict=True)]
    check_answers(sets, protocols)
    if run_file is not None:
        check_words(ids_of(sets))
        if not run_file.parent.is_dir():  # said now: the search would be lost
            raise FileNotFoundError(f"{run_file}: expected its folder to exist. Make {run_file.parent} first.")
    model = load_encoder(source)
    reader = load_encoder(index) if index else model
    notes: dict[str, Any] = {"model": source, "index": index or source, "reads": reads, "sets": {}}
    scores: PerQuery = {}
    run: dict[str, dict[str, float]] = {}
    pairs = list(zip(sets, protocols, strict=True))
    for found, protocol in tqdm(pairs, desc="measuring", unit="set", disable=None):
        depth = protocol.depth + protocol.leaves_out_own_id
        passages = encode_passages(reader, found, token_folder)
        hits = search_questions(model, found, passages, query_column(found, reads) or reads, depth)
        own_scores, notes["sets"][found.name] = score_by_protocol(found, hits, protocol)
        run.update(trimmed(hits, protocol))
        _add(scores, own_scores)
        _warn_of_short_lists(found.name, notes["sets"][found.name])
    if run_file is not None:
        qrels = {query_id: judged for found in sets for query_id, judged in found.qrels.items()}
        write_qrels(run_file.with_suffix(".qrels"), qrels)
        write_run(run_file, run, tag="-".join(Path(source).name.split()) or "drdecr")
    facts = environment()
    return summarize(
        scores,
        {query_id: code for found in sets for query_id, code in found.languages.items()},
        collection=settings.collection or ", ".join(found.name for found in sets),
        data_version=data_version(sets, [content_digest(found) for found in sets]),
        command=facts["command"],
        notes={**notes, "hardware": facts["hardware"], "git_commit": facts["git_commit"], **memory.peaks},
    )


def _warn_of_short_lists(name: str, facts: Mapping[str, Any]) -> None:
    missed = max(facts.get("missed_with_short_list", {}).values(), default=0)
    if missed:
        logger.warning(
            "%s: %d questions found no answer, and their passages ended before the budget of tokens: the figures are lower "
            "bounds. Longer passages, or a deeper ranking, might have hit.",
            name,
            missed,
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
