"""Debian's package descriptions: English documents, and their translated first lines as questions of one known answer."""

import json
import random
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

LANGUAGES = ("ja", "ko", "ru", "fi", "de", "fr")
SEED = 12345
READ = "/usr/lib/apt/apt-helper"
FIELD = re.compile(r"^Description-(?!md5)([a-zA-Z_]+): ?(.*)")


def fetch(folder: Path, questions: int) -> tuple[int, int]:
    """Get the lists by apt into `folder/apt`, and write `documents.jsonl` and `questions.jsonl`.

    The documents of the questions stand first, the others behind them in a drawn order, so that a part of the collection, from
    its start, is a collection in which every question has its answer.

    Args:
        folder: of the benchmark; nothing outside it changes.
        questions: a language.

    Returns:
        How many documents and questions.
    """
    lists, cache = folder / "apt" / "lists", folder / "apt" / "cache"
    for made in (lists / "partial", cache / "archives" / "partial"):
        made.mkdir(parents=True, exist_ok=True)
    settings = [f"Dir::State::lists={lists.resolve()}", f"Dir::Cache={cache.resolve()}"]
    settings.append(f"Acquire::Languages={','.join(('en', *LANGUAGES))}")
    subprocess.run(["apt-get", "update", *(f"-o{setting}" for setting in settings)], check=True)
    english = read_language(lists, "en")
    asked = [row for language in LANGUAGES for row in known_items(read_language(lists, language), english, language)]
    by_language: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in asked:
        by_language[row["language"]].append(row)
    draw = random.Random(SEED)
    chosen = [row for rows in by_language.values() for row in draw.sample(rows, min(questions, len(rows)))]
    first = list(dict.fromkeys(row["document_id"] for row in chosen))
    rest = sorted(english.keys() - set(first))
    draw.shuffle(rest)
    rows = [{"document_id": key, "title": english[key][0], "text": english[key][1]} for key in [*first, *rest]]
    for name, written in (("documents", rows), ("questions", chosen)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in written]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows), len(chosen)


def known_items(
    translated: dict[str, tuple[str, str]], english: dict[str, tuple[str, str]], language: str
) -> Iterator[dict[str, str]]:
    """Yield a question for each first line that was translated, in the order of the keys, each line once."""
    seen: set[str] = set()
    for key in sorted(translated.keys() & english.keys()):
        line = translated[key][0]
        if line and line != english[key][0] and line not in seen:
            seen.add(line)
            yield {"query_id": f"{language}-{key}", "query": line, "language": language, "document_id": key}


def read_language(lists: Path, language: str) -> dict[str, tuple[str, str]]:
    """Read `{md5 of the English description: (first line, the rest)}` of all lists of a language."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(lists.glob(f"*_i18n_Translation-{language}*")):
        text = subprocess.run([READ, "cat-file", str(path)], check=True, capture_output=True).stdout.decode("utf-8")
        for block in text.split("\n\n"):
            key, first, rest = "", "", []
            for line in block.splitlines():
                if line.startswith("Description-md5: "):
                    key = line.removeprefix("Description-md5: ")
                elif match := FIELD.match(line):
                    first = match[2].strip()
                elif line.startswith(" "):
                    rest.append("" if line.strip() == "." else line.strip())
            if key and first:
                found.setdefault(key, (first, " ".join(" ".join(rest).split())))
    if not found:
        raise ValueError(f"{lists}: expected descriptions in {language}, found none. Does this apt have that list?")
    return found
