"""An index of documents in several languages: its calibration, and how much the language of a document moves its rank."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from drdecr.data.corpus import read_documents
from drdecr.data.files import write_text
from drdecr.data.readers.text import has_fields, id_field, ids_field, locate, records_of, text_field
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import open_stored
from drdecr.retrieval.calibration import CALIBRATION, LANGUAGE, open_calibrated
from drdecr.retrieval.passages import Document, passage_text
from drdecr.retrieval.protocol import Filter, PassageIndex

from .bias_report import heat_map, markdown_bias
from .language_bias import BiasReport, measure_bias

logger = logging.getLogger(__name__)
QUESTIONS_AT_ONCE = 64
PLAIN, CALIBRATED = "scores as they are", "calibrated scores"


def read_references(texts: str | Path, passages: int = 100, key: str = LANGUAGE) -> dict[str, list[str]]:
    """Read reference passages of each language.

    Args:
        texts: documents (`data.documents.read_documents`) with their language. Best the same texts in all languages, in one
            order.
        passages: of each language at most, evenly spread over the source (default 100).
        key: of the metadata that names the language.

    Returns:
        `{language: texts}`, sorted by language.

    Raises:
        ValueError: for no document, or one without a language.
    """
    by_language: dict[str, list[Document]] = {}
    for document in read_documents(texts):
        language = document.metadata.get(key)
        if not isinstance(language, str):
            raise ValueError(
                f"{texts}: document {document.document_id!r} has no {key}, which calibration needs. Add it, or name its field: "
                "--language-key."
            )
        by_language.setdefault(language, []).append(document)
    references = {}
    for language, found in sorted(by_language.items()):
        step = max(len(found) / passages, 1.0)
        chosen = [found[int(number * step)] for number in range(min(passages, len(found)))]
        references[language] = [passage_text(document.title, document.text) for document in chosen]
    return references


def read_versions(path: Path) -> list[dict[str, Any]]:
    """Read questions with their right documents: JSON Lines of `query_id`, `query`, `language`, `document_ids`.

    Raises:
        ValueError: naming file and line, for a record of another form or an id that stands twice; or if there is none.
    """
    file, rows, seen = locate(path), [], set()
    for number, record in records_of(file):
        has_fields(record, ("query_id", "query", "language", "document_ids"), file, number)
        query_id = id_field(record, "query_id", file, number)
        if query_id in seen:
            raise ValueError(f"{file}, line {number}: query {query_id!r} stands twice. Give each its own id.")
        seen.add(query_id)
        texts = {name: text_field(record, name, file, number) for name in ("query", "language")}
        document_ids = ids_field(record, "document_ids", file, number)
        rows.append({**record, **texts, "query_id": query_id, "document_ids": document_ids})
    if not rows:
        raise ValueError(f"{file}: expected questions, got none.")
    return rows


def measure_index_bias(
    model: DrDecrModel,
    folder: Path,
    questions: Sequence[Mapping[str, Any]],
    key: str = LANGUAGE,
    languages: Sequence[str] = (),
    top_k: int = 10,
    depth: int = 1000,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, BiasReport]:
    """Measure the language bias of an index, and where it was calibrated also that of calibrated scores.

    Args:
        model: that reads the questions.
        folder: of an index that `drdecr index build` or `drdecr index compress` wrote; every passage is scored.
        questions: as `read_versions` gives them.
        key: of the payload that names the language.
        languages: of the documents that are searched (default: all).
        top_k: places that are looked at (default 10).
        depth: passages a question that are ranked (default 1,000).
        notes: more metadata.

    Returns:
        `setting -> report`.
    """
    index = open_stored(folder)
    where: Filter | None = {key: list(languages)} if languages else None
    owners = _owners(index, key)
    known = dict(owners.values())
    searched = {name: code for name, code in known.items() if not languages or code in languages}
    asked = model.encode_queries([row["query"] for row in questions])
    settings: dict[str, PassageIndex] = {PLAIN: index}
    if (folder / CALIBRATION).exists():
        settings[CALIBRATED] = open_calibrated(folder, index, key)
    reports = {}
    for label, system in settings.items():
        run = {}
        with tqdm(total=len(asked), desc=label, unit="question", disable=None) as bar:
            for start in range(0, len(asked), QUESTIONS_AT_ONCE):
                hits = system.search(asked[start : start + QUESTIONS_AT_ONCE], depth, where)
                for row, ids, scores in zip(questions[start:], hits.document_ids, hits.scores, strict=False):
                    run[row["query_id"]] = _best_passages(ids, scores, owners)
                    bar.update()
        reports[label] = measure_bias(
            run,
            {row["query_id"]: [n for n in row["document_ids"] if n in searched or n not in known] for row in questions},
            {row["query_id"]: row["language"] for row in questions},
            searched,
            top_k=top_k,
            depth=depth,
            notes=notes,
        )
    return reports


def _owners(index: StoredIndex, key: str) -> dict[str, tuple[str, str]]:
    """Return `{passage_id: (document_id, language)}`."""
    owners, ids = {}, index.passage_ids()
    for name, payload in zip(ids, index.payloads(ids), strict=True):
        language = payload.get(key)
        if not isinstance(language, str):
            raise ValueError(
                f"{index.folder}: passage {name!r} has no {key}. Encode documents with that field, or name theirs: "
                "--language-key."
            )
        owners[name] = (payload.get("document_id", name), language)
    return owners


def _best_passages(
    ids: Sequence[str], scores: Sequence[float], owners: Mapping[str, tuple[str, str]]
) -> dict[str, float]:
    """Return `{document_id: score}` of documents by their best passages."""
    best: dict[str, float] = {}
    for name, score in zip(ids, scores, strict=True):
        best.setdefault(owners[name][0], score)
    return best


def write_bias(reports: Mapping[str, BiasReport], output: Path) -> Iterator[Path]:
    """Write `bias.md`, `bias.png` and a JSON file for each setting into a folder, and yield their paths."""
    output.mkdir(parents=True, exist_ok=True)
    for number, report in enumerate(reports.values()):
        path = output / ("bias.json" if number == 0 else "bias-calibrated.json")
        report.to_json(path)
        yield path
    yield heat_map(reports, output / "bias.png")
    write_text(output / "bias.md", markdown_bias(reports))  # last: it says that all is there
    yield output / "bias.md"
