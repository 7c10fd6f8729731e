"""`drdecr compare`: two TREC runs of any systems on the same questions."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from drdecr.evaluation.metrics import PerQuery, Qrels, per_query_scores
from drdecr.evaluation.results import AVERAGE, Comparison, compare
from drdecr.evaluation.runs import read_qrels, read_run

logger = logging.getLogger(__name__)


def compare_runs(
    baseline: Path,
    system: Path,
    qrels: Path,
    measures: list[str],
    languages: Path | None = None,
    collection: str | None = None,
) -> Comparison:
    """Compare two TREC runs; a judged query without a line in a run scores 0 in it.

    Args:
        baseline: run that is compared with.
        system: the other run.
        qrels: judgements.
        measures: names as ir_measures writes them.
        languages: file with lines of query id, tab, language; default: all queries are one group, `all`.
        collection: what was searched, in words; default: not said.

    Returns:
        The comparison; its metadata tell each file by path and by content, since another can come to lie under the path.

    Raises:
        ValueError: for a file of another form, a run without any judged query, or a judged query without a language.
    """
    judged = read_qrels(qrels)
    by_query = dict.fromkeys(judged, "all") if languages is None else _read_languages(languages, judged)
    old, new = (_scores(file, judged, measures) for file in (baseline, system))
    files = {"baseline": baseline, "system": system, "qrels": qrels, "languages": languages}
    notes: dict[str, Any] = {} if collection is None else {"collection": collection}
    for name, file in files.items():
        if file is not None:
            notes |= {name: str(file), f"{name}_sha256": _digest(file)}
    return compare(old, new, by_query, notes=notes)


def _read_languages(file: Path, judged: Qrels) -> dict[str, str]:
    by_query: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        query_id, *languages = line.split("\t")
        if len(languages) != 1:
            raise ValueError(f"{file}, line {number}: expected query id, tab, language, got {line!r}.")
        if query_id in by_query:
            raise ValueError(f"{file}, line {number}: query {query_id!r} stands twice. Keep one of its lines.")
        by_query[query_id] = languages[0].strip()
    missing = [query_id for query_id in judged if by_query.get(query_id, "") in ("", AVERAGE)]
    if missing:
        raise ValueError(
            f"{file}: expected a language other than {AVERAGE!r} for each of {len(judged)} judged queries, got "
            f"{by_query.get(missing[0])!r} for {missing[0]!r} ({len(missing)} such queries). Give each a line."
        )
    return by_query


def _scores(file: Path, judged: Qrels, measures: list[str]) -> PerQuery:
    run = read_run(file)
    unjudged = [query_id for query_id in run if query_id not in judged]
    if unjudged:
        logger.warning("%s: %d queries are not judged and left out, the first %s.", file, len(unjudged), unjudged[0])
    missing = [query_id for query_id in judged if query_id not in run]
    if len(missing) == len(judged):
        raise ValueError(
            f"{file}: expected lines of the {len(judged)} judged queries, such as {missing[0]!r}, got none. Check that run and "
            "qrels share their query ids."
        )
    if missing:
        logger.warning(
            "%d of %d judged queries have no line in %s and score 0, the first %s.",
            len(missing),
            len(judged),
            file,
            missing[0],
        )
    return per_query_scores({name: hits for name, hits in run.items() if name in judged}, judged, measures)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
