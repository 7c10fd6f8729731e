"""TREC run and qrels files, the form in which search systems hand over what they found and what was right.

A line of a run is `query_id Q0 document_id rank score tag`, one of qrels `query_id 0 document_id relevance`, with blanks or
tabs between.
"""

import math
import os
from collections.abc import Callable, Iterable
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from drdecr.data.schema import QuestionSet

from .metrics import Qrels, Run

Number = TypeVar("Number", int, float)


def write_run(path: str | Path, run: Run, tag: str, top_k: int | None = None) -> Path:
    """Write a run whole or not at all.

    Args:
        path: file to write; its folder must exist.
        run: `query_id -> document_id -> score`.
        tag: name of the system, without blanks.
        top_k: documents a query that are kept; default: all.

    Returns:
        The path.

    Raises:
        ValueError: for an id or a tag that is empty or holds a blank, which the format has no place for, or a score that is
            not finite.
        OSError: if the folder is missing or full.
    """
    check_words([tag], "tag")

    def lines() -> Iterable[str]:
        for query_id, scores in run.items():
            check_words([query_id, *scores])
            # Of equal scores the higher id first, as trec_eval and `per_query_scores` have it.
            ranked = sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)[:top_k]
            for rank, (document_id, score) in enumerate(ranked, start=1):
                if not math.isfinite(score):
                    raise ValueError(f"{query_id!r}, {document_id!r}: expected a finite score, got {score}.")
                yield f"{query_id} Q0 {document_id} {rank} {float(score)!r} {tag}\n"

    return _write(Path(path), lines())


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a run; ranks are left out, since the scores say them.

    Raises:
        ValueError: naming file and line, for a line of another form, a score that is no number, or a document that stands
            twice under a query.
    """
    return _read(path, 6, 4, float, "query_id Q0 document_id rank score tag")


def write_qrels(path: str | Path, qrels: Qrels) -> Path:
    """Write judgements whole or not at all; arguments and errors as for `write_run`."""

    def lines() -> Iterable[str]:
        for query_id, judgements in qrels.items():
            check_words([query_id, *judgements])
            yield from (f"{query_id} 0 {document_id} {int(value)}\n" for document_id, value in judgements.items())

    return _write(Path(path), lines())


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgements; errors as for `read_run`."""
    return _read(path, 4, 3, int, "query_id 0 document_id relevance")


def _read(
    path: str | Path, num_fields: int, place: int, number: Callable[[str], Number], form: str
) -> dict[str, dict[str, Number]]:
    found: dict[str, dict[str, Number]] = {}
    with Path(path).open(encoding="utf-8-sig", errors="replace") as file:  # what is no UTF-8 is no number either
        for count, line in enumerate(file, start=1):
            fields = line.split()
            if not fields:
                continue
            where = f"{path}, line {count}"
            if len(fields) != num_fields:
                raise ValueError(f"{where}: expected `{form}`, got {line.strip()[:120]!r}. Is it another kind of file?")
            try:
                value = number(fields[place])
            except ValueError as error:
                raise ValueError(f"{where}: expected a number, got {fields[place]!r}. The form is `{form}`.") from error
            if not math.isfinite(value):
                raise ValueError(f"{where}: expected a finite number, got {fields[place]!r}. Make the run again.")
            documents = found.setdefault(fields[0], {})
            if fields[2] in documents:
                raise ValueError(f"{where}: {fields[2]!r} stands twice under {fields[0]!r}. Keep one of the two.")
            documents[fields[2]] = value
    if not found:
        raise ValueError(f"{path}: expected lines of `{form}`, got none.")
    return found


def _write(path: Path, lines: Iterable[str]) -> Path:
    check_path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder, so that renaming is one step
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def check_path(path: Path) -> None:
    """Check that a file can be made, before what it is to hold is made.

    Raises:
        FileNotFoundError: if its folder is missing.
        IsADirectoryError: if it is a folder itself.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected its folder to exist. Make {path.parent} first.")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file, got a folder. Name a file in it.")


def check_words(words: Iterable[str], name: str = "id") -> None:
    """Check that words can stand in a TREC file.

    Raises:
        ValueError: for one that is empty or holds a blank.
    """
    odd = next((word for word in words if len(word.split()) != 1 or word != word.strip()), None)
    if odd is not None:
        raise ValueError(f"{name}: a TREC file has blanks between its fields, got {odd!r}. Write it without blanks.")


RUN_DEPTH = 10
"""Passages a question that a run file holds: what MRR@10, nDCG@10 and R@10 look at."""


def ids_of(sets: Iterable[QuestionSet]) -> Iterable[str]:
    """Return the ids of all questions and passages."""
    return chain.from_iterable([*found.questions["query_id"], *found.passages] for found in sets)


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
