"""Every system of a pipeline measured on its test sets, what each found kept, and the student compared with the others."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_questions
from drdecr.evaluation.metrics import per_query_scores
from drdecr.evaluation.report import bar_chart, markdown_differences, markdown_table
from drdecr.evaluation.results import Comparison, EvaluationResult, compare, summarize
from drdecr.evaluation.runs import read_qrels, read_run, write_run
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex

from .recipe import Recipe, read_yaml
from .run_folder import environment, write_text
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
    """

    results: dict[str, EvaluationResult]
    comparisons: dict[str, Comparison]


def build_index(model: DrDecrModel, found: QuestionSet) -> ExactIndex:
    """Encode a set's collection."""
    return ExactIndex(list(found.passages), model.encode_documents(list(found.passages.values())))


def search_questions(
    model: DrDecrModel, found: QuestionSet, index: ExactIndex, reads: str = "query"
) -> dict[str, dict[str, float]]:
    """Return the best 100 passages of every question and their scores; `reads` is the column that is asked."""
    texts = found.questions[reads]
    asked = list(dict.fromkeys(texts))
    hits = index.search(model.encode_queries(asked), top_k=min(100, len(index)))
    rows = dict(zip(asked, hits.as_run(asked).values(), strict=True))
    return {query_id: rows[text] for query_id, text in zip(found.questions["query_id"], texts, strict=True)}


def measure(pipeline: "Pipeline", recipes: Mapping[str, Recipe], sets: list[QuestionSet]) -> Measured:
    """Measure every system on every test set, and the student against each other system by question."""
    languages = {query_id: code for found in sets for query_id, code in found.languages.items()}
    others = sorted(set(languages.values()) - {"en"}) or None
    facts = environment()
    results: dict[str, EvaluationResult] = {}
    scores: dict[str, PerQuery] = {}
    indexes: dict[tuple[str, str], ExactIndex] = {}
    for system in pipeline.systems:
        scores[system.label] = _score_system(system, recipes, sets, pipeline, indexes)
        results[system.label] = summarize(
            scores[system.label],
            languages,
            collection=pipeline.collection,
            data_version=", ".join(f"{found.name}: {len(found.questions)} questions" for found in sets),
            command=facts["command"],
            average_over=others,
            notes={"hardware": facts["hardware"], "git_commit": facts["git_commit"]},
        )
    best = pipeline.student_label
    comparisons = {
        label: compare(found, scores[best], languages, average_over=others)
        for label, found in scores.items()
        if label != best or label == pipeline.systems[0].label
    }
    return Measured(results, comparisons)


def measure_checkpoint(
    source: str, data: Path, index: str | None = None, reads: str = "query", run_file: Path | None = None
) -> EvaluationResult:
    """Measure one checkpoint on the question sets of a YAML file.

    Args:
        source: checkpoint folder or Hub name.
        data: YAML with `test`, a list of question sets, and perhaps `collection`, what they are searched in.
        index: checkpoint that encodes the passages; default: the same.
        reads: column of the questions that is asked.
        run_file: where the best 100 passages a question are written as a TREC run; default: nowhere.

    Raises:
        ValueError: if the file names no set, or a set does not have the column.
    """
    content = read_yaml(data)
    if not content.get("test"):
        raise ValueError(f"{data}: expected `test:`, a list of question sets, got {', '.join(content)}.")
    sets = [read_questions(entry) for entry in content["test"]]
    without = next((found.name for found in sets if reads not in found.questions.column_names), None)
    if without is not None:
        raise ValueError(
            f"{without}: expected a column {reads!r} to ask, got none. Leave `--reads` out to ask `query`."
        )
    model = load_teacher(source)
    reader = load_teacher(index) if index else model
    scores: PerQuery = {}
    run: dict[str, dict[str, float]] = {}
    for found in sets:
        own = search_questions(model, found, build_index(reader, found), reads)
        run.update(own)
        for name, by_query in per_query_scores(own, found.qrels).items():
            scores.setdefault(name, {}).update(by_query)
    if run_file is not None:
        write_run(run_file, run, tag=Path(source).name or "drdecr")
    return summarize(
        scores,
        {query_id: code for found in sets for query_id, code in found.languages.items()},
        collection=content.get("collection", str(data)),
        data_version=", ".join(f"{found.name}: {len(found.questions)} questions" for found in sets),
        command=environment()["command"],
        notes={"model": source, "index": index or source, "reads": reads},
    )


def compare_runs(
    baseline: Path, system: Path, qrels: Path, measures: list[str], languages: Path | None = None
) -> Comparison:
    """Compare two TREC runs; a judged query without a line in a run scores 0 in it.

    Args:
        baseline: run that is compared with.
        system: the other run.
        qrels: judgements.
        measures: names as ir_measures writes them.
        languages: file with lines of query id, tab, language; default: all queries are one group, `all`.

    Raises:
        ValueError: for a file of another form, or a judged query without a language.
    """
    judged = read_qrels(qrels)
    by_query = dict.fromkeys(judged, "all")
    if languages is not None:
        rows = [line.split("\t") for line in languages.read_text(encoding="utf-8").splitlines() if line.strip()]
        odd = next((row for row in rows if len(row) != 2), None)
        if odd is not None:
            raise ValueError(f"{languages}: expected lines of query id, tab, language, got {odd[0]!r}.")
        by_query = dict(rows)  # type: ignore[arg-type]
    old, new = (per_query_scores(read_run(file), judged, measures) for file in (baseline, system))
    return compare(old, new, by_query, notes={"baseline": str(baseline), "system": str(system), "qrels": str(qrels)})


def _score_system(
    system: "System",
    recipes: Mapping[str, Recipe],
    sets: list[QuestionSet],
    pipeline: "Pipeline",
    indexes: dict[tuple[str, str], ExactIndex],
) -> PerQuery:
    """Search every question with one system; scores of the same runs, system and test are read back from their file.

    An index is built once for all systems that search it, and kept in `indexes` by stage and set.
    """
    index_stage = system.index or system.stage
    runs = [(recipes[name].folder / "run.json").read_text(encoding="utf-8") for name in (system.stage, index_stage)]
    key = hashlib.sha256(json.dumps([asdict(system), runs, pipeline.test]).encode()).hexdigest()
    name = file_names([row.label for row in pipeline.systems])[system.label]
    file = Path(pipeline.output) / "results" / f"{name}.scores.json"
    if file.exists() and (found := json.loads(file.read_text(encoding="utf-8")))["key"] == key:
        return found["scores"]
    logger.info("Measuring: %s.", system.label)
    model = load_teacher(str(recipes[system.stage].model_folder))
    scores: PerQuery = {}
    run: dict[str, dict[str, float]] = {}
    for questions in sets:
        reads = system.reads if system.reads in questions.questions.column_names else "query"
        place = (index_stage, questions.name)
        if place not in indexes:
            reader = model if index_stage == system.stage else load_teacher(str(recipes[index_stage].model_folder))
            indexes[place] = build_index(reader, questions)
        own = search_questions(model, questions, indexes[place], reads)
        run.update(own)
        for measure_name, by_query in per_query_scores(own, questions.qrels).items():
            scores.setdefault(measure_name, {}).update(by_query)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_run(file.with_name(f"{name}.run"), run, tag=name, top_k=KEPT)
    write_text(file, json.dumps({"key": key, "scores": scores}))  # last: its presence says that the run is there too
    return scores


def write_tables(pipeline: "Pipeline", measured: Measured) -> None:
    """Write `results.md`, the files of each system and comparison, and the bar chart into the pipeline's folder."""
    output = Path(pipeline.output)
    facts = environment()
    notes = f"Collection: {pipeline.collection}. Intervals: 95 %, percentile bootstrap, 10,000 resamples, seed 0. " + (
        f"Measured by `{facts['command']}` on {facts['hardware']}"
        + (f", commit {facts['git_commit']}." if facts["git_commit"] else ".")
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
