"""Text files of all formats: where they are, their lines and records, and what is said of a wrong one.

A path may hold `{language}`, which stands for each of the `languages`, and environment variables such as
`$DRDECR_DATA`.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

Languages = list[str] | dict[str, str]
"""Language codes; or, where a source has names of its own, `{code: name in the path}`."""


def locate(path: str | Path) -> Path:
    """Resolve environment variables in a path and check that the file is there.

    Raises:
        ValueError: if a variable is not set.
        FileNotFoundError: if there is no such file or folder, with the cure.
    """
    resolved = expanded(path)
    if not resolved.exists():
        raise FileNotFoundError(f"{resolved}: no such file or folder. Check the path, or set DRDECR_DATA.")
    return resolved


def expanded(path: str | Path) -> Path:
    """Resolve environment variables in a path that need not be there.

    Raises:
        ValueError: if a variable is not set.
    """
    resolved = os.path.expandvars(os.path.expanduser(str(path)))
    if "$" in resolved:
        variable = resolved[resolved.index("$") + 1 :].split("/")[0].strip("{}")
        raise ValueError(
            f"{path}: the environment variable {variable} is not set. Set it to the folder that holds the data."
        )
    return Path(resolved)


def locate_all(paths: str | list[str]) -> list[Path]:
    """Resolve one path or several, each of which may hold `*` in the file's name; errors as in `locate`."""
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str) else paths:
        folder, _, pattern = path.rpartition("/")
        files = sorted(locate(folder or ".").glob(pattern)) if "*" in pattern else [locate(path)]
        if not files:
            raise FileNotFoundError(f"{path}: no file is named like that. Check the path in the recipe.")
        found += files
    if not found:
        raise ValueError("Expected at least one path, got none.")
    return found


def language_files(path: str, languages: Languages) -> Iterator[tuple[str, Path]]:
    """Yield each language's code and file."""
    names = named_languages(path, languages)
    if len(names) > 1 and "{language}" not in path:
        raise ValueError(
            f"{path}: expected {{language}} in the path of {len(names)} languages, else each would read the same file. "
            "Write it where the files' names differ."
        )
    for code, name in names.items():
        yield code, locate(path.replace("{language}", name))  # not format(), to which ${DRDECR_DATA} is a field


def named_languages(path: str, languages: Languages) -> dict[str, str]:
    """Return `{code: name in the path}`; an error names the path."""
    if not languages or isinstance(languages, str):
        raise ValueError(f"{path}: expected a list of at least one language code, got {languages!r}.")
    return languages if isinstance(languages, dict) else {code: code for code in languages}


@contextmanager
def readable(file: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file, or one that gzip packed; one that is cut off or not UTF-8 is called by its name and the line.

    A byte order mark at its start, which some programs write, is no text.

    Raises:
        ValueError: naming the file and the line that cannot be read.
    """
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8-sig", newline=newline)
            if file.suffix == ".gz"
            else file.open(encoding="utf-8-sig", newline=newline)
        ) as stream:
            yield stream  # type: ignore[misc]
    except UnicodeDecodeError as error:
        line = _first_wrong_line(file)
        raise ValueError(
            f"{file}, line {line}: expected text in UTF-8 ({error.reason}). Convert the file: `iconv -t UTF-8`."
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        line = _first_wrong_line(file)
        raise ValueError(f"{file}, line {line}: expected a whole gzip file ({error}). Get it again.") from error


@contextmanager
def naming(file: str | Path) -> Iterator[None]:
    """Put a file's name before a `ValueError` about what was read from it: a set knows its questions, but no file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _first_wrong_line(file: Path) -> int:
    """Return the number of the first line that cannot be read: streams read ahead, and know no lines."""
    read = 0
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
        try:
            for line in stream:
                line.decode("utf-8")
                read += 1
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error):
            return read + 1
    return read + 1


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with its number in the file."""
    with readable(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line.rstrip("\n")


def records_of(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of JSON Lines, each with its line number."""
    for number, line in lines_of(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, or lists in lists without end
            raise ValueError(f"{file}, line {number}: expected one JSON object a line ({error}).") from error
        if not isinstance(record, dict):
            raise ValueError(f"{file}, line {number}: expected one JSON object a line, got {type(record).__name__}.")
        yield number, record


def has_fields(
    record: dict[str, Any], fields: tuple[str, ...], file: str | Path, number: int | str, kind: str = "line"
) -> dict[str, Any]:
    """Return the record if it has all fields, else say where which is missing."""
    if not isinstance(record, dict):
        named = f" with {', '.join(fields)}" if fields else ""
        raise ValueError(f"{file}, {kind} {number}: expected an object{named}, got {_cut(record)}.")
    missing = [name for name in fields if record.get(name) is None]
    if missing:
        raise ValueError(
            f"{file}, {kind} {number}: expected the fields {', '.join(fields)}, got {', '.join(map(str, record))}; missing "
            f"{', '.join(missing)}. Rename or fill them."
        )
    return record


def text_field(record: dict[str, Any], field: str, file: str | Path, number: int | str, kind: str = "line") -> str:
    """Return a field that must hold a text, else say where it does not; a blank one is for who reads it to judge."""
    value = record.get(field)
    if not isinstance(value, str):
        raise ValueError(
            f"{file}, {kind} {number}: expected a text as {field!r}, got {_cut(value)}. Put it in quotes, or leave it out."
        )
    return value


def optional_text(
    record: dict[str, Any], field: str, file: str | Path, number: int | str, kind: str = "line"
) -> str | None:
    """Return a field that holds a text, is null or is missing, else say where it holds something else."""
    return None if record.get(field) is None else text_field(record, field, file, number, kind)


def id_field(record: dict[str, Any], field: str, file: str | Path, number: int | str, kind: str = "line") -> str:
    """Return the text of a field that must hold an id, a text or a whole number, else say where it does not."""
    value = record.get(field)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(
            f"{file}, {kind} {number}: expected an id as {field!r}, got {_cut(value)}. Write a text or a whole number."
        )
    return str(value)


def list_field(
    record: dict[str, Any], field: str, file: str | Path, number: int | str, kind: str = "line"
) -> list[Any]:
    """Return a field that must hold a list, else say where it does not; null or a missing one is an empty list.

    A text would pass for a list of its letters.
    """
    value = record.get(field)
    if value is not None and not isinstance(value, list):
        raise ValueError(
            f"{file}, {kind} {number}: expected a list of `{field}`, got {_cut(value)}. Put it in [brackets]."
        )
    return value or []


def texts_field(
    record: dict[str, Any], field: str, file: str | Path, number: int | str, kind: str = "line"
) -> list[str]:
    """Return a field that must hold a list of texts, as `list_field`."""
    return [
        text_field({field: one}, field, file, number, kind) for one in list_field(record, field, file, number, kind)
    ]


def ids_field(record: dict[str, Any], field: str, file: str | Path, number: int | str, kind: str = "line") -> list[str]:
    """Return the texts of a field that must hold a list of ids, as `list_field`."""
    return [id_field({field: one}, field, file, number, kind) for one in list_field(record, field, file, number, kind)]


def _cut(value: Any) -> str:
    return repr(value)[:200]
