"""What a recipe's data entries mean: a format's name and the arguments of its reader."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from datasets import Dataset, concatenate_datasets

from .formats import (
    read_afriqa,
    read_beir,
    read_clapnq,
    read_hub_candidates,
    read_hub_parallel,
    read_hub_questions,
    read_hub_tokens,
    read_ir_datasets,
    read_jsonl,
    read_lines,
    read_miracl,
    read_mkqa,
    read_mkqa_retrieval,
    read_moses,
    read_mr_tydi,
    read_prepared,
    read_prepared_candidates,
    read_prepared_questions,
    read_qed,
    read_squad,
    read_stored_tokens,
    read_tsv,
    read_xor_retrieve,
)
from .index_tokens import read_index_tokens
from .sample_data import read_sample_questions, read_sample_sentences
from .schema import PARALLEL_COLUMNS, CandidateSet, QuestionSet
from .token_cache import Tokens

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
