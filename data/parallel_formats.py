"""Readers of parallel text: tab-separated pairs, aligned lines, MKQA."""

import logging

from datasets import Dataset

from .schema import parallel_set
from .text_files import Languages, all_lines, language_files, lines_of, locate, named_languages, records_of

logger = logging.getLogger(__name__)


def read_tsv(path: str, languages: Languages) -> Dataset:
    """Read tab-separated pairs, other language first, then English (XOR-TyDi questions, Tatoeba, TICO-19, PUD).

    A line with an empty field is left out with a warning: the public XOR-TyDi questions hold one.
    """
    rows = []
    for code, file in language_files(path, languages):
        for number, line in lines_of(file):
            parts = line.split("\t")
            if len(parts) != 2:
                raise ValueError(
                    f"{file}, line {number}: expected two fields with a tab between them, got {len(parts)}."
                )
            if not all(part.strip() for part in parts):
                logger.warning("%s, line %d: left out, it has a text in one language only.", file, number)
                continue
            rows.append({"query": parts[0].strip(), "english": parts[1].strip(), "language": code})
    return parallel_set(rows, path)


def read_lines(path: str, english: str, languages: Languages) -> Dataset:
    """Read two line-aligned files a language (NTREX, FLORES). A line that is blank in both is left out."""
    english_lines = all_lines(locate(english))
    rows = []
    for code, file in language_files(path, languages):
        lines = all_lines(file)
        if len(lines) != len(english_lines):
            raise ValueError(
                f"{file}: expected {len(english_lines)} lines, as many as {english} has, got {len(lines)}. The files "
                "must be aligned line by line."
            )
        for number, (line, translation) in enumerate(zip(lines, english_lines, strict=True), start=1):
            if bool(line) != bool(translation):
                raise ValueError(
                    f"{file}, line {number}: blank in one language only, got {line!r} and {translation!r}. Fill the "
                    "line, or delete it in both files."
                )
            if line:
                rows.append({"query": line, "english": translation, "language": code})
    return parallel_set(rows, path)


def read_mkqa(path: str, languages: Languages) -> Dataset:
    """Read MKQA questions in several languages as parallel text (its answers are not used)."""
    names = named_languages(path, languages)
    rows = []
    for number, record in records_of(locate(path)):
        missing = next((name for name in ["en", *names.values()] if name not in record), None)
        if missing is not None:
            raise ValueError(f"{path}, line {number}: expected a question in {missing!r}, got {', '.join(record)}.")
        rows += [{"query": record[name], "english": record["en"], "language": code} for code, name in names.items()]
    return parallel_set(rows, path)
