"""How much memory `drdecr data translate`, `mine` and `annotate` take, and how that grows with their rows: one table.

    python benchmarks/teaching.py [--rows 20000 100000] [--stages translate mine annotate scores exact centroids]

| stage | is |
| --- | --- |
| `translate` | pairs of sentences |
| `mine` | by BM25: two candidates a row, ten rows a question |
| `annotate` | what `mine` wrote, by a scorer that counts |
| `scores` | the same by a file of scores, which is looked up on disk |
| `exact`, `centroids` | the rankings of `mine` with `method: model`: 4-bit codes; all passages or 1,000 are scored |

Rows are made by a generator: passages of 40 words, a question about every tenth, as many pairs of sentences as passages. What
computes is replaced by what costs no memory: an engine that translates letters, a scorer that counts, a model that draws eight
tokens of 16 dimensions for each text. Each stage runs in a process of its own. `before` is what the process had when its
imports were done; `peak` its largest resident size, which counts pages of mapped files, though the system takes them back when
it needs them; `own` the largest size of what it cannot take back (`RssAnon`).
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGES = ("translate", "mine", "annotate", "scores", "exact", "centroids")
NEEDS = {"translate": ["pairs"], "annotate": ["set", "mine"], "scores": ["set", "mine", "score_file"]}
"""What must be there before a stage; of the others: the set."""
WORDS_PER_PASSAGE = 40
VOCABULARY = 30_000
SEARCHED = 500
"""Questions that a model is asked: an exact search reads all tokens for each."""


class Memory:
    """The largest anonymous size of this process, looked at twenty times a second."""

    def __init__(self) -> None:
        self.largest, self.is_over = 0.0, False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self.is_over:
            self.largest = max(self.largest, anonymous_megabytes())
            time.sleep(0.05)


def anonymous_megabytes() -> float:
    """Return how much memory this process has of its own, files that it maps left out."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def peak_megabytes() -> float:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def passage_texts(count: int) -> Iterator[str]:
    """Yield texts whose words are as unevenly spread as those of a language, about."""
    drawn = random.Random(1)
    for number in range(count):
        words = (int(VOCABULARY ** drawn.random()) for _ in range(WORDS_PER_PASSAGE))
        yield f"n{number} " + " ".join(f"word{word}" for word in words)


def write_set(folder: Path, count: int) -> None:
    """Write questions and passages as `drdecr data translate` leaves them."""
    from datasets import Features, List, Value

    from drdecr.data.hub import write_dataset
    from drdecr.data.passages import PASSAGE_SCHEMA, mapped_rows

    text, ids = Value("string"), List(Value("string"))
    columns = dict.fromkeys(("query_id", "query", "english", "language"), text)
    question_schema = Features({**columns, "document_ids": ids}).arrow_schema
    passages = ({"document_id": f"p{n}", "text": found} for n, found in enumerate(passage_texts(count)))
    questions = (
        {
            "query_id": f"q{number}",
            "query": found.upper()[:60],
            "english": " ".join(found.split()[:7]),
            "language": "fi" if number % 20 else "sw",
            "document_ids": [f"p{number}"],
        }
        for number, found in enumerate(passage_texts(count))
        if number % 10 == 0
    )
    parts = {
        "passages": {"train": mapped_rows(lambda: passages, PASSAGE_SCHEMA.names, "passages", PASSAGE_SCHEMA)},
        "questions": {"train": mapped_rows(lambda: questions, question_schema.names, "questions", question_schema)},
    }
    write_dataset(folder / "set", parts, "Generated.")


def write_pairs(folder: Path, count: int) -> None:
    """Write pairs of sentences."""
    with (folder / "fi.tsv").open("w") as stream:
        for found in passage_texts(count):
            words = found.split()[:12]
            stream.write(f"{' '.join(words).upper()}\t{' '.join(words)}\n")


def translate(folder: Path, count: int) -> None:
    """Translate the pairs."""
    from drdecr.data.teacher import translate as translating
    from drdecr.data.teacher.translation_store import Engine, Translation

    class Letters:
        engine = Engine("letters", "1")

        def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
            return [Translation(text.lower(), 1.0) for text in texts]

    translating.ENGINES["apertium"] = Letters
    entry = {"format": "tsv", "path": str(folder / "{language}.tsv"), "languages": ["fi"]}
    settings = translating.TranslationSettings(parallel=[entry], engine="apertium", length_factor=3.0)
    translating.translate(settings, folder / "translated")


def mine(folder: Path, count: int) -> None:
    """Mine by BM25, two candidates a row and ten rows a question."""
    from drdecr.data.teacher.mine import MiningSettings
    from drdecr.data.teacher.mine import mine as run

    entry = {"format": "hub_questions", "name": str(folder / "set")}
    run(MiningSettings([entry], depth=50, num_negatives=10), folder / "mined")


def annotate(folder: Path, count: int) -> None:
    """Score what was mined."""
    from drdecr.data.teacher import annotate as annotating

    class Counting:
        facts = {"scorer": "counting"}  # noqa: RUF012

        def score(self, rows: list[Any]) -> list[list[float]]:
            return [[float(-place) for place in range(len(row["document_ids"]))] for row in rows]

        def query_tokens(self, rows: list[Any]) -> list[int]:
            return [0] * len(rows)

    annotating._load_scorer = lambda *_: Counting()
    annotating.annotate(annotating.AnnotationSettings(str(folder / "mined"), cross_encoder="x"), folder / "annotated")


def score_file(folder: Path, count: int) -> None:
    """Write a score of each mined candidate, as another program would."""
    from drdecr.data.readers.hub import read_hub_unscored

    rows, _ = read_hub_unscored(str(folder / "mined"), "mined_candidates", split="train")
    with (folder / "scores.tsv").open("w") as stream:
        for batch in rows.select_columns(["query_id", "document_ids"]).iter(1000):
            for query_id, names in zip(batch["query_id"], batch["document_ids"], strict=True):
                stream.writelines(f"{query_id}\t{name}\t{len(name)}\n" for name in names)


def scores(folder: Path, count: int) -> None:
    """Look up the scores of a file."""
    from drdecr.data.teacher.annotate import AnnotationSettings
    from drdecr.data.teacher.annotate import annotate as run

    run(AnnotationSettings(str(folder / "mined"), scores=str(folder / "scores.tsv")), folder / "looked-up")


def rank(folder: Path, by: str) -> None:
    """Rank by a model: eight tokens a passage, 16 dimensions, kept in 4 bits."""
    import types

    import torch

    from drdecr.data.sources import read_questions
    from drdecr.data.teacher import rankings
    from drdecr.data.teacher.mine import select_questions
    from drdecr.retrieval import StoredIndex

    def drawn(texts: list[str], **_: Any) -> list[torch.Tensor]:
        made = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        return [torch.nn.functional.normalize(torch.randn(8, 16, generator=one), dim=1) for one in made]

    config = types.SimpleNamespace(embedding_dim=16)
    model = types.SimpleNamespace(config=config, encode_documents=drawn, encode_queries=drawn)
    rankings.model_digest = lambda _: "drawn"
    question_set = read_questions({"format": "hub_questions", "name": str(folder / "set")})
    question_set.questions = question_set.questions.select(range(min(SEARCHED, len(question_set.questions))))
    questions, _ = select_questions([question_set], [])
    passages = question_set.passages
    with StoredIndex.open(rankings.encode_pool(model, passages, folder / by, "residual4")) as index:
        rank = rankings.model_ranker(index, model, 50, rankings.PoolSearch(by, 1000))
        rankings.rank_in_shards(rank, questions, passages, folder / by / "rankings")


def run_alone(stage: str, folder: str, rows: int) -> dict[str, float]:
    """Run a stage in a process of its own and return what it took."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", folder, "--rows", str(rows)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def measure(stage: str, folder: Path, rows: int) -> dict[str, float]:
    """Run a stage in this process and return what it took."""
    import drdecr.data.teacher.annotate
    import drdecr.data.teacher.mine
    import drdecr.data.teacher.translate  # noqa: F401 - what counts as `before`

    if stage in ("set", "pairs"):
        {"set": write_set, "pairs": write_pairs}[stage](folder, rows)
        return {}
    before = {"before": peak_megabytes(), "own_before": anonymous_megabytes()}
    memory, start = Memory(), time.process_time()
    if stage in ("exact", "centroids"):
        rank(folder, stage)
    else:
        globals()[stage](folder, rows)
    return {**before, "cpu": time.process_time() - start, "peak": peak_megabytes(), "own": memory.largest}


def main() -> None:
    """Run each stage in a process of its own for each number of rows, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(measure(arguments.stage, arguments.folder, arguments.rows[0])))
        return
    print("| stage | rows | rows a second of CPU time | MB own before | MB own at the peak | MB before | MB peak |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, dict[str, float]] = {}
            for stage in arguments.stages:
                for wanted in (*NEEDS.get(stage, ["set"]), stage):
                    if wanted not in found:
                        found[wanted] = run_alone(wanted, folder, rows)
                took = found[stage]
                numbers = (f"{took[name]:.0f}" for name in ("own_before", "own", "before", "peak"))
                print(f"| {stage} | {rows:,} | {rows / took['cpu']:,.0f} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()
