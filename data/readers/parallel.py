"""Readers of parallel text: tab-separated pairs, aligned lines, OPUS archives, MKQA; each as rows, one at a time, and as a set.

The row readers hold one line in memory. They keep a pair that has a text in one language only: who reads them decides, and
counts.
"""

import io
import logging
import zipfile
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from datasets import Dataset

from drdecr.data.schema import parallel_set

from .text import Languages, language_files, lines_of, locate, named_languages, readable, records_of

logger = logging.getLogger(__name__)

Pair = dict[str, str]
"""`query`, `english` and `language`."""

UNREADABLE = (UnicodeDecodeError, zipfile.BadZipFile, EOFError)


def tsv_rows(path: str, languages: Languages) -> Iterator[Pair]:
    """Yield tab-separated pairs, other language first, then English (XOR-TyDi questions, Tatoeba, TICO-19, PUD)."""
    return (pair for _, _, pair in _numbered_pairs(path, languages))


def read_tsv(path: str, languages: Languages) -> Dataset:
    """Read tab-separated pairs, other language first, then English (XOR-TyDi questions, Tatoeba, TICO-19, PUD).

    A line with an empty field is left out with a warning: the public XOR-TyDi questions hold one.
    """
    rows = []
    for file, number, pair in _numbered_pairs(path, languages):
        if pair["query"] and pair["english"]:
            rows.append(pair)
        else:
            logger.warning("%s, line %d: left out, it has a text in one language only.", file, number)
    return parallel_set(rows, path)


def line_rows(path: str, english: str, languages: Languages) -> Iterator[Pair]:
    """Yield pairs of two line-aligned files a language (NTREX, FLORES). A line that is blank in both is left out.

    The lines of all files are counted before the first pair, so that files that do not belong together are refused whole.
    """
    english_file = locate(english)
    files = list(language_files(path, languages))
    expected = _count(english_file)
    for _, file in files:
        if (found := _count(file)) != expected:
            raise ValueError(
                f"{file}: expected {expected} lines, as many as {english} has, got {found}. The files must be aligned line "
                "by line."
            )
    for code, file in files:
        with readable(file) as lines, readable(english_file) as translations:
            yield from _aligned(lines, translations, code, str(file))


def read_lines(path: str, english: str, languages: Languages) -> Dataset:
    """Read two line-aligned files a language (NTREX, FLORES). A line that is blank in both is left out."""
    return parallel_set(line_rows(path, english, languages), path)


def moses_rows(path: str, languages: Languages) -> Iterator[Pair]:
    """Yield pairs of OPUS archives in Moses' form (WikiMatrix, CCMatrix, CCAligned), read where they lie in the archive.

    Args:
        path: zip files with two line-aligned texts, one of them ending in `.en`, the other in the language's code there.
        languages: codes, or `{code: the name in the path and the ending}`.
    """
    names = named_languages(path, languages)
    for code, file in list(language_files(path, languages)):
        yield from _archived(file, code, names[code])


def read_moses(path: str, languages: Languages) -> Dataset:
    """Read OPUS archives in Moses' form; a pair with a text in one language only is left out with a warning."""
    return parallel_set(_whole(moses_rows(path, languages), path), path)


def mkqa_rows(path: str, languages: Languages) -> Iterator[Pair]:
    """Yield MKQA's questions in several languages as parallel text (its answers are not used).

    Args:
        path: JSON Lines, perhaps `.gz`, whose questions stand under `queries` by language, as they are published, or in the
            line itself.
        languages: codes, or `{code: MKQA's}`.
    """
    names = named_languages(path, languages)
    for number, record in records_of(locate(path)):
        questions = record["queries"] if isinstance(record.get("queries"), dict) else record
        wrong = next((name for name in ["en", *names.values()] if not isinstance(questions.get(name), str)), None)
        if wrong is not None:
            raise ValueError(
                f"{path}, line {number}: expected a question in {wrong!r}, got {', '.join(questions)}. Leave the language "
                "out, or fill the line."
            )
        for code, name in names.items():
            yield {"query": questions[name], "english": questions["en"], "language": code}


def read_mkqa(path: str, languages: Languages) -> Dataset:
    """Read MKQA questions in several languages as parallel text (its answers are not used)."""
    return parallel_set(mkqa_rows(path, languages), path)


def _numbered_pairs(path: str, languages: Languages) -> Iterator[tuple[Path, int, Pair]]:
    for code, file in list(language_files(path, languages)):
        for number, line in lines_of(file):
            parts = line.split("\t")
            if len(parts) != 2:
                raise ValueError(
                    f"{file}, line {number}: expected two fields with a tab between them, got {len(parts)}. Split the "
                    "line, or delete it."
                )
            yield file, number, {"query": parts[0].strip(), "english": parts[1].strip(), "language": code}


def _whole(rows: Iterable[Pair], path: str) -> Iterator[Pair]:
    """Leave out pairs with a text in one language only, and say how many."""
    dropped = 0
    for row in rows:
        if row["query"] and row["english"]:
            yield row
        else:
            dropped += 1
    if dropped:
        logger.warning("%s: left out %d rows with a text in one language only.", path, dropped)


def _count(file: Path) -> int:
    with readable(file) as stream:
        return sum(1 for _ in stream)


def _aligned(lines: Iterable[str], translations: Iterable[str], code: str, file: str) -> Iterator[Pair]:
    for number, (line, translation) in enumerate(zip(lines, translations, strict=True), start=1):
        line, translation = line.strip(), translation.strip()
        if bool(line) != bool(translation):
            raise ValueError(
                f"{file}, line {number}: blank in one language only, got {line!r} and {translation!r}. Fill the line, or "
                "delete it in both files."
            )
        if line:
            yield {"query": line, "english": translation, "language": code}


def _archived(file: Path, code: str, name: str) -> Iterator[Pair]:
    number = 0
    try:
        with zipfile.ZipFile(file) as archive:
            members = [_member(archive, file, ending) for ending in (name, "en")]
            with archive.open(members[0]) as lines, archive.open(members[1]) as translations:
                texts = (
                    io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n") for stream in (lines, translations)
                )
                for number, pair in enumerate(zip_longest(*texts), start=1):
                    if None in pair:
                        raise ValueError(
                            f"{file}, line {number}: expected as many lines in {members[0]} as in {members[1]}, got an end. "
                            "Get the archive again."
                        )
                    yield {"query": pair[0].strip(), "english": pair[1].strip(), "language": code}
    except UNREADABLE as error:
        raise ValueError(
            f"{file}, after line {number}: expected a whole zip archive of UTF-8 texts ({error}). Get it again."
        ) from error


def _member(archive: zipfile.ZipFile, file: Path, ending: str) -> str:
    found = [name for name in archive.namelist() if name.endswith(f".{ending}")]
    if len(found) != 1:
        raise ValueError(
            f"{file}: expected one text that ends in .{ending}, got {', '.join(archive.namelist())}. Name the language as "
            "the archive does: `languages: {code: name}`."
        )
    return found[0]
