"""Every system of a pipeline measured on its test sets, what each found kept, and the student compared with the others."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from drdecr.data.schema import QuestionSet, check_query_ids
from drdecr.data.sources import read_questions
from drdecr.data.token_store import stored_documents
from drdecr.evaluation.metrics import per_query_scores
from drdecr.evaluation.protocols import check_answers, protocol_of, score_by_protocol, trimmed
from drdecr.evaluation.report import bar_chart, markdown_differences, markdown_table
from drdecr.evaluation.results import Comparison, EvaluationResult, compare, summarize
from drdecr.evaluation.runs import check_words, write_qrels, write_run
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.retrieval import ExactIndex

from .peak_memory import PeakMemory, larger
from .recipe import Recipe, read_yaml
from .run_folder import environment, write_text
from .settings import settings_of
from .start import load_teacher
from .validation import MEASURE

if TYPE_CHECKING:
    from .pipeline import Pipeline, System

logger = logging.getLogger(__name__)

PerQuery = dict[str, dict[str, float]]
KEPT = 10
"""Passages a question that a run file holds: what MRR@10, nDCG@10 and R@10 look at."""


@dataclass
class Measured:
    """What was found.

    Args:
        results: of each system, by its label.
        comparisons: the student against each other system, by that one's label; and against the first, whichever it is.
        scores: of each system, by its label, question by question.
        languages: of the questions, by their ids.
    """

    results: dict[str, EvaluationResult]
    comparisons: dict[str, Comparison]
    scores: dict[str, PerQuery]
    languages: dict[str, str]


@dataclass
class EvaluationSettings:
    """What `drdecr evaluate` reads from YAML.

    Args:
        test: entries of question sets, at least one.
        collection: what they are searched in, in words; default: the sets' names.
        protocol: what is reported; default: what the format of each set says (`evaluation.protocols`).
    """

    test: list[dict[str, Any]] = field(default_factory=list)
    collection: str | None = None
    protocol: str | None = None


def build_index(model: DrDecrModel, found: QuestionSet, token_folder: Path | None = None) -> ExactIndex:
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
        missing = next((column for column in reads if asked_column(found, column) is None), None)
        if missing is not None:
            raise ValueError(
                f"{found.name}: expected a text to ask in every row of a column {missing!r}, got the columns "
                f"{', '.join(found.questions.column_names)}. Fill it, or leave the system out that reads it."
            )


def asked_column(found: QuestionSet, reads: str) -> str | None:
    """Return the column that is asked, None if it is not filled: English questions are their own translation."""
    if reads in found.questions.column_names and all(found.questions[reads]):
        return reads
    return "query" if reads == "english" and set(found.questions.unique("language")) == {"en"} else None


def measure(pipeline: "Pipeline", recipes: Mapping[str, Recipe], sets: list[QuestionSet]) -> Measured:
    """Measure every system on every test set, and the student against each other system by question."""
    languages = {query_id: code for found in sets for query_id, code in found.languages.items()}
    others = sorted(set(languages.values()) - {"en"}) or None
    results: dict[str, EvaluationResult] = {}
    scores: dict[str, PerQuery] = {}
    indexes: dict[tuple[str, str], ExactIndex] = {}
    digests = [content_digest(found) for found in sets]
    for system in pipeline.systems:
        scores[system.label], facts = _score_system(system, recipes, sets, digests, pipeline, indexes)
        results[system.label] = summarize(
            scores[system.label],
            languages,
            collection=pipeline.collection,
            data_version=data_version(sets, digests),
            command=facts["command"],
            average_over=others,
            notes={"hardware": facts["hardware"], "git_commit": facts["git_commit"], **larger(facts, {})},
        )
    best = pipeline.student_label
    comparisons = {
        label: compare(found, scores[best], languages, average_over=others)
        for label, found in scores.items()
        if label != best or label == pipeline.systems[0].label
    }
    return Measured(results, comparisons, scores, languages)


def measure_checkpoint(
    source: str,
    data: Path,
    index: str | None = None,
    reads: str = "query",
    run_file: Path | None = None,
    token_folder: Path | None = None,
) -> EvaluationResult:
    """Measure one checkpoint on the question sets of a YAML file.

    Args:
        source: checkpoint folder or Hub name.
        data: YAML of `EvaluationSettings`.
        index: checkpoint that encodes the passages; default: the same.
        reads: column of the questions that is asked.
        run_file: where the best 100 passages a question (or as many as the protocol looks at) are written as a TREC run, the
            judgements beside it with the ending `.qrels`; default: nowhere.
        token_folder: where tokens of passages are kept (half precision), so that another call does not encode them again.

    Returns:
        The mean scores by language.

    Raises:
        ValueError: if the file names no set or has an unknown key, or as in `check_sets`, `protocol_of` and `check_answers`; if
            a run is asked for and an id holds a blank.
        FileNotFoundError: if there is no folder for the run; before anything is searched.
    """
    memory = PeakMemory()
    content = read_yaml(data, "`test:`, a list of question sets, and `collection:` (docs/evaluation.md)")
    if not content.get("test"):
        got = "an empty list" if content.get("test") == [] else ", ".join(content) or "an empty file"
        raise ValueError(f"{data}: expected `test:`, a list of question sets, got {got}.")
    settings = settings_of(EvaluationSettings, content, str(data))
    sets = [read_questions(entry) for entry in settings.test]
    check_sets(sets, [reads])
    protocols = [protocol_of(*pair, settings.protocol) for pair in zip(settings.test, sets, strict=True)]
    check_answers(sets, protocols)
    if run_file is not None:
        check_words(ids_of(sets))
        if not run_file.parent.is_dir():  # said now: the search would be lost
            raise FileNotFoundError(f"{run_file}: expected its folder to exist. Make {run_file.parent} first.")
    model = load_reader(source)
    reader = load_reader(index) if index else model
    notes: dict[str, Any] = {"model": source, "index": index or source, "reads": reads, "sets": {}}
    scores: PerQuery = {}
    run: dict[str, dict[str, float]] = {}
    for found, protocol in zip(sets, protocols, strict=True):
        depth = protocol.depth + protocol.leaves_out_own_id
        passages = build_index(reader, found, token_folder)
        hits = search_questions(model, found, passages, asked_column(found, reads) or reads, depth)
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


def load_reader(source: str) -> DrDecrTeacher:
    """Load a checkpoint to encode with, on the accelerator if there is one."""
    reader: Any = load_teacher(source)
    return reader.to(torch.accelerator.current_accelerator() or "cpu")


def ids_of(sets: Iterable[QuestionSet]) -> Iterable[str]:
    """Return the ids of all questions and passages."""
    return chain.from_iterable([*found.questions["query_id"], *found.passages] for found in sets)


def _add(scores: PerQuery, more: PerQuery) -> None:
    for name, by_query in more.items():
        scores.setdefault(name, {}).update(by_query)


def _score_system(
    system: "System",
    recipes: Mapping[str, Recipe],
    sets: list[QuestionSet],
    digests: list[str],
    pipeline: "Pipeline",
    indexes: dict[tuple[str, str], ExactIndex],
) -> tuple[PerQuery, dict[str, Any]]:
    """Search every question with one system; scores of the same runs, system and test are read back from their file.

    An index is built once for all systems that search it, and kept in `indexes` by stage and set.

    Returns:
        The scores, and the environment in which they were made.
    """
    index_stage = system.index or system.stage
    runs = [(recipes[name].folder / "run.json").read_text(encoding="utf-8") for name in (system.stage, index_stage)]
    key = hashlib.sha256(json.dumps([asdict(system), runs, digests]).encode()).hexdigest()
    name = file_names([row.label for row in pipeline.systems])[system.label]
    file = Path(pipeline.output) / "results" / f"{name}.scores.json"
    if file.exists() and (kept := json.loads(file.read_text(encoding="utf-8")))["key"] == key:
        return kept["scores"], kept["environment"]
    logger.info("Measuring: %s.", system.label)
    memory = PeakMemory()
    model = load_reader(str(recipes[system.stage].model_folder))
    scores: PerQuery = {}
    run: dict[str, dict[str, float]] = {}
    for questions in sets:
        place = (index_stage, questions.name)
        if place not in indexes:
            reader = model if index_stage == system.stage else load_reader(str(recipes[index_stage].model_folder))
            indexes[place] = build_index(reader, questions)
        own = search_questions(model, questions, indexes[place], asked_column(questions, system.reads) or system.reads)
        run.update(own)
        judged = questions.qrels
        _add(scores, per_query_scores({query_id: own[query_id] for query_id in judged}, judged))
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_run(file.with_name(f"{name}.run"), run, tag=name, top_k=KEPT)
    except ValueError as error:  # an id that the form has no place for costs the run, not the figures
        logger.warning("No run file of %s is kept. %s", system.label, error)
    facts = {**environment(), **memory.peaks}
    write_text(
        file, json.dumps({"key": key, "environment": facts, "scores": scores})
    )  # last: it says that all is there
    return scores, facts


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


def write_tables(pipeline: "Pipeline", measured: Measured) -> None:
    """Write `results.md`, the files of each system and comparison, and the bar chart into the pipeline's folder."""
    output = Path(pipeline.output)
    facts = measured.results[pipeline.student_label].metadata
    commit = f", commit {facts['git_commit']}" if facts["git_commit"] else ""
    notes = (
        f"Collection: {pipeline.collection}. Questions: {facts['data_version']}. "
        f"Intervals: 95 %, percentile bootstrap, 10,000 resamples, seed 0. Measured by "
        f"`{facts['command']}` on {facts['hardware']}{commit}."
    )
    parts = ["# Results", notes]
    for name in (MEASURE, "R@10", "nDCG@10"):
        parts += [f"## {name.replace('RR', 'MRR')}", markdown_table(measured.results, name)]
    for label, comparison in measured.comparisons.items():
        parts += [f"## {pipeline.student_label} against {label}, paired", markdown_differences(comparison, MEASURE)]
    write_text(output / "results.md", "\n\n".join(parts) + "\n")
    names = file_names([row.label for row in pipeline.systems])
    for label, result in measured.results.items():
        result.to_json(output / "results" / f"{names[label]}.json")
    folder = output / "results" / "student_against"
    folder.mkdir(exist_ok=True)
    for label, comparison in measured.comparisons.items():
        comparison.to_json(folder / f"{names[label]}.json")
    bar_chart(measured.results, MEASURE, output / "results.png", title=pipeline.collection)


def file_names(labels: list[str]) -> dict[str, str]:
    """Return a file name for each label: its letters and digits, numbered where two would be the same.

    >>> file_names(["a + b", "a - b"])
    {'a + b': 'a---b', 'a - b': 'a---b-2'}
    """
    names: dict[str, str] = {}
    for label in labels:
        signs = "".join(character if character.isalnum() else "-" for character in label.lower())
        first = signs.strip("-") or "system"
        candidates = chain([first], (f"{first}-{number}" for number in count(2)))
        names[label] = next(name for name in candidates if name not in names.values())
    return names
