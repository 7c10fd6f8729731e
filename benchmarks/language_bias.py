"""XQuAD as a collection in five languages, and news sentences to calibrate it with: what docs/retrieval.md measures.

```
python benchmarks/language_bias.py parallel
drdecr index build MODEL parallel/documents.jsonl parallel/index
drdecr index calibrate parallel/index parallel/texts.jsonl
drdecr eval bias parallel/index parallel/questions.jsonl --output parallel/bias
```
"""

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LANGUAGES = {"ar": "arb", "en": "eng", "es": "spa", "ru": "rus", "zh": "zho-CN"}
"""XQuAD's code of each language, and NTREX's."""


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_collection(data: Path, folder: Path, every: int, paragraphs_every: int) -> None:
    """Write XQuAD's paragraphs in every language as documents, and its questions with all versions of their paragraph."""
    documents, questions = [], []
    for language in LANGUAGES:
        articles = json.loads((data / "xquad" / f"xquad.{language}.json").read_text(encoding="utf-8"))["data"]
        paragraphs = [
            (f"{a}-{p}", found) for a, one in enumerate(articles) for p, found in enumerate(one["paragraphs"])
        ]
        asked = [(name, question) for name, found in paragraphs for question in found["qas"]][::every]
        kept = {name for name, _ in paragraphs[::paragraphs_every]}
        documents += [
            {"document_id": f"{name}.{language}", "text": found["context"], "language": language}
            for name, found in paragraphs
            if name in kept
        ]
        questions += [
            {
                "query_id": f"{question['id']}.{language}",
                "query": question["question"].strip(),
                "language": language,
                "document_ids": [f"{name}.{code}" for code in LANGUAGES],
            }
            for name, question in asked
            if name in kept
        ]
    write_jsonl(folder / "documents.jsonl", documents)
    write_jsonl(folder / "questions.jsonl", questions)


def write_texts(data: Path, folder: Path, sentences: int) -> None:
    """Write the first sentences of NTREX's news articles in every language, the same articles in each."""
    articles = (data / "ntrex" / "DOCUMENT_IDS.tsv").read_text(encoding="utf-8").split()
    starts = [row for row, name in enumerate(articles) if row == 0 or name != articles[row - 1]]
    rows = []
    for language, code in LANGUAGES.items():
        lines = (data / "ntrex" / f"{code}.txt").read_text(encoding="utf-8").splitlines()
        for start in starts:
            text = " ".join(lines[start : start + sentences])
            rows.append({"document_id": f"{articles[start]}.{language}", "text": text, "language": language})
    write_jsonl(folder / "texts.jsonl", rows)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--every", type=int, default=3, help="Every n-th question.")
parser.add_argument("--paragraphs-every", type=int, default=1, help="Every n-th paragraph.")
parser.add_argument("--sentences", type=int, default=4, help="Sentences of an article that calibrate.")
chosen = parser.parse_args()
chosen.folder.mkdir(parents=True, exist_ok=True)
write_collection(Path(os.environ["DRDECR_DATA"]), chosen.folder, chosen.every, chosen.paragraphs_every)
write_texts(Path(os.environ["DRDECR_DATA"]), chosen.folder, chosen.sentences)
