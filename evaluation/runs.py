"""TREC run and qrels files, the form in which search systems hand over what they found and what was right.

A line of a run is `query_id Q0 document_id rank score tag`, one of qrels `query_id 0 document_id relevance`, with blanks or
tabs between.
"""

import math
import os
import re
from collections.abc import Callable, Iterable
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from drdecr.data.readers.text import lines_of, naming
from drdecr.data.schema import QuestionSet

from .metrics import HIGHEST_GRADE, Qrels, Run, plain_grade, ranked

Number = TypeVar("Number", int, float)

NO_WORD = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


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
            for rank, document_id in enumerate(ranked(scores)[:top_k], start=1):
                score = float(scores[document_id])
                if not math.isfinite(score):
                    raise ValueError(f"{query_id!r}, {document_id!r}: expected a finite score, got {score}.")
                yield f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n"

    return _write(Path(path), lines())


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a run; ranks are left out, since the scores say them.

    Raises:
        ValueError: naming file and line, for a line of another form or not in UTF-8, a score that is no finite number, or a
            document that stands twice under a query; or for a file without a line.
    """
    return _read(path, 6, 4, _score, "query_id Q0 document_id rank score tag")


def write_qrels(path: str | Path, qrels: Qrels) -> Path:
    """Write judgements whole or not at all; arguments and errors as for `write_run`."""

    def lines() -> Iterable[str]:
        for query_id, judgements in qrels.items():
            check_words([query_id, *judgements])
            yield from (f"{query_id} 0 {document_id} {int(value)}\n" for document_id, value in judgements.items())

    return _write(Path(path), lines())


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgements; a grade below 0 is read as 0. Errors as for `read_run`."""
    return _read(path, 4, 3, _grade, "query_id 0 document_id relevance")


def _read(
    path: str | Path, num_fields: int, place: int, number: Callable[[str], Number], form: str
) -> dict[str, dict[str, Number]]:
    values: dict[str, dict[str, Number]] = {}
    for line_number, line in lines_of(Path(path)):
        where, fields = f"{path}, line {line_number}", line.split()
        if len(fields) != num_fields:
            raise ValueError(f"{where}: expected `{form}`, got {line.strip()[:120]!r}. Is it another kind of file?")
        with naming(where):
            check_words([fields[0], fields[2]])
            value = number(fields[place])
        documents = values.setdefault(fields[0], {})
        if fields[2] in documents:
            raise ValueError(f"{where}: {fields[2]!r} stands twice under {fields[0]!r}. Keep one of the two.")
        documents[fields[2]] = value
    if not values:
        raise ValueError(f"{path}: expected lines of `{form}`, got none.")
    return values


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError as error:
        raise ValueError(f"expected a number as score, got {text!r}. The fields are in another order.") from error
    if not math.isfinite(score):
        raise ValueError(f"expected a finite number, got {text!r}. Make the run again.")
    return score


def _grade(text: str) -> int:
    try:
        return plain_grade(int(text) if text.removeprefix("-").isdigit() else float(text))
    except ValueError as error:
        raise ValueError(f"expected a whole number from 0 to {HIGHEST_GRADE:,} as relevance, got {text!r}.") from error


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
        ValueError: for one that is empty, or holds a blank, a control character or half a surrogate pair.
    """
    odd = next((word for word in words if not word or NO_WORD.search(word)), None)
    if odd is not None:
        raise ValueError(
            f"{name}: a TREC file has blanks between its fields, got {odd!r}. Write it without blanks and control characters."
        )


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
