"""What limits the gain of `recipes/real`: one setting changed at a time, on development questions (docs/results.md).

```
python benchmarks/limits.py --output runs/limits
```

Trains short runs of `recipes/real/student.yaml`, each in a folder of its own, and measures them on questions that are no test
set. A run that is done is not done again, and an interrupted one resumes. Needs DRDECR_DATA.
"""

import argparse
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from drdecr.data.files import write_text
from drdecr.data.offline.sample import LANGUAGES as XOR_LANGUAGES
from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_parallel, read_questions
from drdecr.evaluation.evaluate import encode_passages, search_questions
from drdecr.evaluation.metrics import PerQuery, per_query_scores
from drdecr.evaluation.results import AVERAGE, compare, summarize
from drdecr.retrieval import ExactIndex
from drdecr.retrieval.encoder import load_encoder
from drdecr.runs.recipe import load_recipe
from drdecr.runs.stage import run_stage

MEASURE = "RR@10"
RECIPES = Path("recipes/real")
POOL = [
    {
        "format": "squad",
        "path": "$DRDECR_DATA/tydiqa-goldp/english_tydiqa_train.json",
        "languages": ["en"],
        "name": "tydiqa",
    },
    {"format": "clapnq", "path": "$DRDECR_DATA/clapnq/clapnq_dev_answerable.jsonl"},
]
"""What is searched for candidates: the recipe's, without QED, whose passages are searched here."""

SHORT = {
    "validation": [],  # the last step's model is measured: no choice by what is measured
    "data.corpus": POOL,
    "data.limits": {"unlabelled_queries": 9500, "questions": 190},  # the shares of the whole, some 300 steps of 32
    "training.max_steps": 300,
    "training.warmup_steps": 20,
}


@dataclass
class Variant:
    """One run, and what it starts from.

    Args:
        changed: settings of `recipes/real/student.yaml` that are others, by dotted key.
        start: the model that teaches, that the student starts from and that encodes the passages.
    """

    changed: dict[str, Any] = field(default_factory=dict)
    start: str = "neutral"


VARIANTS = {
    "base": Variant(),
    "candidates16": Variant({"data.num_candidates": 16}),
    "head128": Variant(start="neutral128"),
    "seed1": Variant({"training.seed": 1}),
    "half_rows": Variant({"data.limits": {"unlabelled_queries": 4750, "questions": 95}}),  # each row twice
}
STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero_shot": ("zero_shot", {}),
    "neutral": ("neutral", {}),
    "neutral128": ("neutral", {"embedding_dim": 128}),
}
"""Models before any training: the recipe of each, and what is changed in it."""


def overridden(changed: Mapping[str, Any]) -> list[str]:
    """Return settings as `--key value`, in JSON, which is YAML."""
    return [part for key, value in changed.items() for part in (f"--{key}", json.dumps(value))]


def group(query_id: str) -> str:
    """Return which of the four kinds a question is of."""
    return query_id.split("-")[0]


def make_questions(folder: Path, starts: Mapping[str, Path], tokens: Path) -> QuestionSet:
    """Write the development questions and their passages, or read those that are there.

    - `mkqa`, `xor`: human translations of English questions. "Right" is the passage that the encoder finds first with the
      English question both without a projection and with the language-neutral one; of those, the half that wins by more.
    - `gold`: the sample's questions of train and dev, whose names are invented.
    - `english`: TyDi QA's dev and QED's with their passages.

    Args:
        folder: to write into.
        starts: the two encoders, `zero_shot` and `neutral`.
        tokens: folder in which their tokens of the passages are kept.
    """
    files = {name: folder / f"{name}.jsonl" for name in ("questions", "passages")}
    if not files["questions"].exists():
        sample = [read_questions({"format": "sample_questions", "split": split}) for split in ("train", "dev")]
        english = [
            read_questions(
                {
                    "format": "squad",
                    "path": "$DRDECR_DATA/tydiqa-goldp/english_tydiqa_dev.json",
                    "languages": ["en"],
                    "name": "tydiqa",
                }
            ),
            read_questions({"format": "qed", "path": "$DRDECR_DATA/qed/qed-dev.jsonlines"}),
        ]
        passages = {name: text for found in (*sample, *english) for name, text in found.passages.items()}
        rows = [
            *(own | {"query_id": f"gold-{own['query_id']}"} for found in sample for own in found.questions),
            *(
                own | {"query_id": f"english-{own['query_id']}", "english": own["query"]}
                for found in english
                for own in found.questions
            ),
            *agreed(passages, starts, tokens),
        ]
        kept = ("query_id", "query", "english", "language", "document_ids")
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(files["passages"], ({"document_id": name, "text": text} for name, text in passages.items()))
        write_jsonl(files["questions"], ({key: row[key] for key in kept} for row in rows))
    return read_questions(
        {"format": "jsonl", "name": "development", **{name: str(file) for name, file in files.items()}}
    )


def agreed(passages: Mapping[str, str], starts: Mapping[str, Path], tokens: Path) -> list[dict[str, Any]]:
    """Return translated questions with the passage that both encoders find first with the English one."""
    rows = list(translated_questions())
    unknown = {"document_ids": [next(iter(passages))]}  # a set names some passage; what is right is found below
    asked = QuestionSet("agreed", Dataset.from_list([row | unknown for row in rows]), dict(passages))
    found = [
        search_questions(model, asked, encode_passages(model, asked, tokens), "english", depth=2)
        for model in (load_encoder(str(starts[name])) for name in ("zero_shot", "neutral"))
    ]
    kept = []
    for kind in ("mkqa", "xor"):
        margins = {}
        for row in rows:
            raw, projected = (list(hits[row["query_id"]].items()) for hits in found)
            if group(row["query_id"]) == kind and raw[0][0] == projected[0][0]:
                margins[row["query_id"]] = (projected[0][1] - projected[1][1]) / len(row["english"])
        clear = sorted(margins.values())[len(margins) // 2] if margins else 0.0
        kept += [
            row | {"document_ids": [next(iter(found[1][row["query_id"]]))]}
            for row in rows
            if margins.get(row["query_id"], clear - 1) >= clear
        ]
    return kept


def translated_questions() -> Iterator[dict[str, Any]]:
    """Read every third question of MKQA, and 150 of XOR-TyDi in each of its languages."""
    entries = {
        "mkqa": {
            "format": "mkqa",
            "path": "$DRDECR_DATA/mkqa/mkqa_dev_parallel.jsonl",
            "languages": {"ar": "ar", "es": "es", "ru": "ru", "zh": "zh_cn"},
            "limit": 586,
        },
        "xor": {
            "format": "tsv",
            "path": "$DRDECR_DATA/xor-tydi/questions.{language}-en.tsv",
            "languages": list(XOR_LANGUAGES),
            "limit": 150,
        },
    }
    for kind, entry in entries.items():
        numbers: dict[str, dict[str, int]] = {}
        for row in read_parallel([entry]):
            own = numbers.setdefault("all" if kind == "mkqa" else row["language"], {})
            number = own.setdefault(row["english"], len(own))
            yield {"query_id": f"{kind}-{row['language']}-{number}", **row}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def scored(model: Path, index: ExactIndex, questions: QuestionSet) -> PerQuery:
    """Measure one model with the passages of an index."""
    return per_query_scores(search_questions(load_encoder(str(model)), questions, index), questions.qrels, [MEASURE])


def table(systems: Mapping[str, PerQuery], languages: Mapping[str, str], against: str | None = None) -> str:
    """Return a Markdown table: each system by kind of question, or its difference from another by question.

    A kind's figure is the mean of its languages' means; a question is drawn once with all its languages.
    """
    kinds = list(dict.fromkeys(group(name) for name in languages))
    lines = [f"| {MEASURE} | " + " | ".join(kinds) + " |", "|---|" + "---:|" * len(kinds)]
    for label, scores in systems.items():
        cells = []
        for kind in kinds:
            own = {name: code for name, code in languages.items() if group(name) == kind}
            part = {MEASURE: {name: scores[MEASURE][name] for name in own}}
            if against is None:
                row: Any = summarize(part, own, collection="", data_version="").scores[MEASURE][AVERAGE]
            else:
                base = {MEASURE: {name: systems[against][MEASURE][name] for name in own}}
                row = compare(base, part, own).differences[MEASURE][AVERAGE]
            cells.append(
                f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
                if against
                else f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}] (n={row.n})"
            )
        if label != against:
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the questions, train what is not trained, measure all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/limits"), help="folder of all runs (default: %(default)s)"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all of them")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = options.output
    starts = {
        name: run_stage(load_recipe(RECIPES / f"{recipe}.yaml", [*overridden(changed), "--output", str(output / name)]))
        for name, (recipe, changed) in STARTS.items()
    }
    questions = make_questions(output / "questions", starts, output / "passages")
    held_out = {
        "format": "jsonl",
        **{name: str(output / "questions" / f"{name}.jsonl") for name in ("questions", "passages")},
    }
    systems: dict[str, PerQuery] = {}
    indexes: dict[str, ExactIndex] = {}
    for name, start in starts.items():
        if name == "zero_shot" or name in {VARIANTS[one].start for one in options.variants}:
            indexes[name] = encode_passages(load_encoder(str(start)), questions, output / "passages")
            systems[name] = scored(start, indexes[name], questions)
    for name in options.variants:
        variant = VARIANTS[name]
        recipe = load_recipe(
            RECIPES / "student.yaml",
            overridden(
                SHORT
                | {
                    "output": str(output / name),
                    "model": f"stage:{variant.start}",
                    "teacher": f"stage:{variant.start}",
                    "data.token_folder": str(output / "tokens"),
                }
                | variant.changed
            ),
        )
        recipe.data.held_out.append(held_out)
        systems[name] = scored(run_stage(recipe), indexes[variant.start], questions)
        print(table(systems, questions.languages), flush=True)
    for start in dict.fromkeys(VARIANTS[name].start for name in options.variants):
        own = {name: found for name, found in systems.items() if name == start or starts_from(name) == start}
        for against in (start, "base"):
            if against in own and len(own) > 1:
                print(f"\nAgainst {against}, by question:\n\n{table(own, questions.languages, against)}", flush=True)


def starts_from(name: str) -> str | None:
    """Return what a run starts from; None for what is no run."""
    return VARIANTS[name].start if name in VARIANTS else None


if __name__ == "__main__":
    main()
