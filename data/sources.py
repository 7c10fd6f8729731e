"""What the entries of a recipe mean: a format's name and the arguments of its reader."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets, load_dataset

from .embeddings.cache import Tokens
from .embeddings.from_index import read_index_tokens
from .files import digest_of, value_digest
from .languages import normalise_text
from .offline.sample import read_sample_questions, read_sample_sentences
from .provenance import KINDS_OF_FILES
from .readers import candidates as triple_formats
from .readers import parallel as parallel_formats
from .readers.beir import read_beir, read_miracl, read_mr_tydi
from .readers.candidates import Item
from .readers.hub import (
    check_folder,
    hub_source,
    read_hub_candidates,
    read_hub_parallel,
    read_hub_questions,
    read_hub_tokens,
    read_prepared,
    read_prepared_candidates,
    read_prepared_questions,
    read_stored_tokens,
)
from .readers.ir_datasets import read_ir_datasets
from .readers.jsonl import read_afriqa, read_clapnq, read_jsonl, read_qed, read_texts
from .readers.parallel import read_lines, read_mkqa, read_moses, read_tsv
from .readers.squad import read_squad
from .readers.text import expanded, locate_all
from .readers.xor import read_mkqa_retrieval, read_xor_retrieve, xor_question_rows
from .schema import CANDIDATE_COLUMNS, PARALLEL_COLUMNS, CandidateSet, QuestionSet, column_of

PARALLEL_READERS: dict[str, Callable[..., Dataset]] = {
    "tsv": read_tsv,
    "lines": read_lines,
    "mkqa": read_mkqa,
    "moses": read_moses,
    "hub": read_hub_parallel,
    "prepared": read_prepared,
    "sample_sentences": read_sample_sentences,
}

QUESTION_READERS: dict[str, Callable[..., QuestionSet]] = {
    "squad": read_squad,
    "afriqa": read_afriqa,
    "qed": read_qed,
    "clapnq": read_clapnq,
    "jsonl": read_jsonl,
    "beir": read_beir,
    "miracl": read_miracl,
    "mr_tydi": read_mr_tydi,
    "xor_retrieve": read_xor_retrieve,
    "mkqa_retrieval": read_mkqa_retrieval,
    "ir_datasets": read_ir_datasets,
    "hub_questions": read_hub_questions,
    "prepared_questions": read_prepared_questions,
    "sample_questions": read_sample_questions,
}

CANDIDATE_READERS: dict[str, Callable[..., CandidateSet]] = {
    "hub_candidates": read_hub_candidates,
    "prepared_candidates": read_prepared_candidates,
}

TOKEN_READERS: dict[str, Callable[..., Tokens]] = {
    "hub_tokens": read_hub_tokens,
    "stored_tokens": read_stored_tokens,
    "index": read_index_tokens,
}

Entry = Mapping[str, Any]


def read_parallel(entries: Iterable[Entry]) -> Dataset:
    """Read and join parallel sets; question sets with an `english` column count as parallel text too.

    Args:
        entries: `{"format": name, **arguments of its reader}`. With `limit: N` at most N rows of each language are kept,
            evenly spread over the source, so that a large one does not drown the others.

    Raises:
        ValueError: for an unknown format or argument, or a limit below 1.
    """
    parts = []
    for entry in entries:
        limit = entry.get("limit") if isinstance(entry, Mapping) else None
        entry = {key: value for key, value in entry.items() if key != "limit"} if limit is not None else entry
        if isinstance(entry, Mapping) and entry.get("format") in QUESTION_READERS:
            questions = read_questions(entry).questions
            if "english" not in questions.column_names:
                raise ValueError(
                    f"parallel text: expected questions with an `english` column, got none in {dict(entry)}."
                )
            rows = questions.select_columns(list(PARALLEL_COLUMNS))
        else:
            rows = _read(entry, PARALLEL_READERS, "parallel text")
        parts.append(rows if limit is None else _spread(rows, limit))
    if not parts:
        raise ValueError("Expected at least one source of parallel text, got none.")
    return concatenate_datasets(parts)


def _spread(rows: Dataset, limit: int) -> Dataset:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit: expected rows a language, at least 1, got {limit!r}. Leave it out to read all.")
    places: dict[str, list[int]] = {}
    for index, code in enumerate(rows["language"]):
        places.setdefault(code, []).append(index)
    kept = [
        found[index * len(found) // min(limit, len(found))]
        for found in places.values()
        for index in range(min(limit, len(found)))
    ]
    return rows.select(sorted(kept))


def read_questions(entry: Entry) -> QuestionSet:
    """Read one question set.

    Args:
        entry: `{"format": name, **arguments of its reader}`.

    Raises:
        ValueError: for an unknown format or argument.
    """
    return _read(entry, QUESTION_READERS, "questions")


def read_candidates(entry: Entry) -> CandidateSet:
    """Read one set of questions with candidates and teacher scores; entry and errors as in `read_questions`."""
    return _read(entry, CANDIDATE_READERS, "candidates")


def read_tokens(entry: Entry) -> Tokens:
    """Read the teacher's token embeddings; entry and errors as in `read_questions`."""
    return _read(entry, TOKEN_READERS, "teacher tokens")


def _read(entry: Entry, readers: Mapping[str, Callable[..., Any]], kind: str) -> Any:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{kind}: expected a list of entries like `- {{format: ...}}`, got {entry!r} in it.")
    arguments = dict(entry)
    name = arguments.pop("format", None)
    arguments.pop("about", None)  # what is known of the source (`license`, `source`): for the card of exported data
    if name not in readers:
        raise ValueError(f"format of {kind}: expected one of {', '.join(readers)}, got {name!r} in {dict(entry)}.")
    try:
        bound = inspect.signature(readers[name]).bind(**arguments)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(readers[name]).parameters)
        raise ValueError(f"format {name!r} takes {accepted}; {error}, in {dict(entry)}.") from error
    return readers[name](*bound.args, **bound.kwargs)


PATH_KEYS = ("path", "english", "questions", "passages", "triples", "queries", "scores", "topics", "qrels", "folder")
"""Arguments of readers that name files; those of the formats `hub...` name configurations."""


def files_of(entry: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files that an entry names, in order, those of each language and each file of a folder.

    Of the formats `hub...` these are the files of a local folder; a name on the Hub has a commit instead.

    Raises:
        FileNotFoundError: if one is not there.
    """
    if str(entry["format"]).startswith("hub"):
        folder = expanded(entry.get("name") or "no folder")
        yield from _below(folder) if folder.is_dir() else ()
        return
    if str(entry["format"]).startswith(("ir_datasets", "sample")):
        return
    languages = entry.get("languages") or []
    names = list(languages.values()) if isinstance(languages, Mapping) else languages
    for key in PATH_KEYS:
        value = entry.get(key)
        for path in [value] if isinstance(value, str) else value or []:
            paths = [path.replace("{language}", name) for name in names] if "{language}" in path else [path]
            for found in locate_all(paths):
                yield from _below(found) if found.is_dir() else [found]


def _below(folder: Path) -> list[Path]:
    """Return the files below a folder but for hidden ones, such as what a download notes of itself."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


TABLES = ("parallel", "questions", "candidates", "passages")


def hub_parallel_rows(
    name: str,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Iterator[dict[str, str]]:
    """Stream a parallel set from the Hub, or from a folder that `datasets.load_dataset` opens; nothing is downloaded whole.

    Args:
        name: the dataset's Hub name or folder.
        columns: `{its column: ours}` for columns named otherwise than `query`, `english`, `language`. Of a column
            `translation`, which holds both texts by language, nothing needs to be said but the `language`.
        language: the code, where the dataset has no language column.
        config: its configuration.
        split: its split (default train).
        revision: branch, tag or commit; name one for a preparation that can be repeated.
    """
    check_folder(hub_source(name), config)
    rows = load_dataset(hub_source(name), config, split=split, revision=revision, streaming=True)
    yield from renamed_rows(rows, name, dict(columns or {}), language)


def renamed_rows(
    rows: IterableDataset, name: str, columns: Mapping[str, str], language: str | None
) -> Iterator[dict[str, str]]:
    """Yield rows under this package's names; an error names the set and the row."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row.get("translation"), Mapping) and language is not None:
            texts = row["translation"]
            row = {"query": texts.get(language), "english": texts.get("en")}
        found = {columns.get(key, key): value for key, value in row.items()}
        found = found if language is None else {**found, "language": language}
        wrong = next((key for key in PARALLEL_COLUMNS if not isinstance(found.get(key), str)), None)
        if wrong is not None:
            raise ValueError(
                f"{name}, row {number}: expected a text as {wrong!r}, got {found.get(wrong)!r} among {', '.join(found)}. Name "
                "its column with `columns:`."
            )
        yield {key: found[key] for key in PARALLEL_COLUMNS}


PAIR_STREAMS: dict[str, Callable[..., Iterator[dict[str, str]]]] = {
    "tsv": parallel_formats.tsv_rows,
    "lines": parallel_formats.line_rows,
    "moses": parallel_formats.moses_rows,
    "mkqa": parallel_formats.mkqa_rows,
    "hub": hub_parallel_rows,
}
"""Formats of parallel text that are read row by row."""

ITEM_STREAMS: dict[str, Callable[..., Iterator[Item]]] = {
    "id_triples": triple_formats.id_triple_rows,
    "text_triples": triple_formats.text_triple_rows,
    "scored": triple_formats.scored_rows,
    "dpr": triple_formats.dpr_rows,
    "wikipedia": triple_formats.passage_rows,
    "xor_questions": xor_question_rows,
}
"""Formats of passages, and of questions that name them, that are read row by row."""

FORMATS = (
    *dict.fromkeys((*PAIR_STREAMS, *ITEM_STREAMS, *PARALLEL_READERS, *QUESTION_READERS, *CANDIDATE_READERS)),
    "texts",
)


def open_stream(entry: Mapping[str, Any]) -> Iterator[Item]:
    """Open an entry's rows, each with the table that it belongs to; the table `left_out` counts what a reader leaves out.

    Args:
        entry: `{"format": name, **arguments of its reader}`. Formats of `PAIR_STREAMS` and `ITEM_STREAMS` are read row by row;
            of the others the questions are held in memory, but no large collection.

    Raises:
        ValueError: for an unknown format or argument, at once; for a wrong row, naming file and row, when it is reached.
    """
    name = entry.get("format")
    if name in PAIR_STREAMS:
        return (("parallel", row) for row in _called(PAIR_STREAMS[name], entry))
    if name in ITEM_STREAMS:
        return iter(_called(ITEM_STREAMS[name], entry))
    if name in QUESTION_READERS:
        return _of_questions(entry)
    if name in CANDIDATE_READERS:
        return _of_candidates(entry)
    if name in PARALLEL_READERS:
        return (("parallel", row) for row in read_parallel([entry]))
    raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {name!r} in {dict(entry)}.")


def question_texts(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the questions of an evaluation set, and their English: what must not be trained on.

    Args:
        entry: as for `open_stream`, or `{format: texts, path, column}` for one column of JSON Lines.
    """
    if entry.get("format") == "texts":
        yield from _called(read_texts, entry)
        return
    for table, row in open_stream(entry):
        if table in ("parallel", "questions", "candidates"):
            yield row["query"]
            if row.get("english"):
                yield row["english"]


def held_out_of(entry: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the questions of an evaluation set with their English, as `question_texts`, and the passages that answer them.

    Passages are known of the formats of questions alone; a collection's other passages are not looked at.

    Raises:
        ValueError: for a set without a text, which would hold nothing out; as `open_stream`.
    """
    if entry.get("format") not in QUESTION_READERS:
        texts = list(question_texts(entry))
        if not any(map(normalise_text, texts)):
            raise ValueError(
                f"held_out: expected questions to hold out, got none with text of {len(texts)} in {dict(entry)}. Look "
                "at its file."
            )
        return texts, []
    found = read_questions(entry)
    columns = [name for name in ("query", "english") if name in found.questions.column_names]
    rows = zip(*(column_of(found.questions, name) for name in columns), strict=True)
    labelled = dict.fromkeys(name for ids in column_of(found.questions, "document_ids") for name in ids)
    return [text for row in rows for text in row if text], [found.passages[name] for name in labelled]


def _called(reader: Callable[..., Any], entry: Mapping[str, Any]) -> Any:
    arguments = {key: value for key, value in entry.items() if key not in ("format", "about")}
    try:
        bound = inspect.signature(reader).bind(**arguments)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(reader).parameters)
        raise ValueError(f"format {entry['format']!r} takes {accepted}; {error}, in {dict(entry)}.") from error
    return reader(*bound.args, **bound.kwargs)


def _of_questions(entry: Mapping[str, Any]) -> Iterator[Item]:
    found = read_questions(entry)
    yield from _passages(found)
    for row in found.questions:
        answers = row.get("answers") or ([row["answer"]] if row.get("answer") else [])
        yield "questions", {**row, "answers": answers}
    if found.left_out:
        yield "left_out", dict(found.left_out)


def _of_candidates(entry: Mapping[str, Any]) -> Iterator[Item]:
    found = read_candidates(entry)
    yield from _passages(found)
    yield from (("candidates", {key: row[key] for key in CANDIDATE_COLUMNS}) for row in found.rows)


def _passages(found: QuestionSet | CandidateSet) -> Iterator[Item]:
    for document_id, text in found.passages.items():
        yield "passages", {"document_id": document_id, "text": text}


NOT_HERE = "not here"


def input_digests(
    entries: Mapping[str, Iterable[Mapping[str, Any]]], models: Mapping[str, str | None]
) -> dict[str, str]:
    """Return a digest of the files behind each entry and each local checkpoint; a pass over them is a second a GB.

    Args:
        entries: of a recipe, by the setting that lists them; an entry without `format` names its file by `path`.
        models: checkpoints by the setting that names them. One that is no local folder has no digest.

    Returns:
        `{"questions 1": digest, "teacher": digest}`; `NOT_HERE` for files that are missing, of which the reader says more.
    """
    found: dict[str, str] = {}
    for setting, listed in entries.items():
        for number, entry in enumerate(listed, start=1):
            try:
                files = [file for file in files_of({"format": "texts", **entry}) if file.name != "README.md"]
            except (FileNotFoundError, ValueError):
                found[f"{setting} {number}"] = NOT_HERE
                continue
            if files:  # else it is the Hub's, or the package's own
                found[f"{setting} {number}"] = _digest_of_files(files)
    for setting, source in models.items():
        if source and Path(source).is_dir():
            files = sorted(file for file in Path(source).rglob("*") if file.suffix in KINDS_OF_FILES)
            found[setting] = _digest_of_files(files)
    return found


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return which inputs are others than before. One that has since been deleted has not changed what was made of it."""
    names = dict.fromkeys([*before, *now])
    gone = {name for name in before if now.get(name, NOT_HERE) == NOT_HERE}
    return [name for name in names if name not in gone and before.get(name) != now.get(name)]


def _digest_of_files(files: Iterable[Path]) -> str:
    return value_digest([[file.name, digest_of(file)] for file in files])
