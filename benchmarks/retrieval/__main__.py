"""What each setting of an index costs and finds, against float32 and every passage, on real vectors.

```
python benchmarks/retrieval encode MODEL vectors.pt --passages 512 --questions 200
python benchmarks/retrieval measure vectors.pt
```
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from measure import exact_hits, measure_candidates, measure_codecs, measure_memory


def encode(arguments: argparse.Namespace) -> None:
    """Encode English TyDi QA questions and their passages: neither a test set nor trained on by this model."""
    from drdecr import DrDecrTeacher
    from drdecr.data.readers.squad import read_squad

    path = "$DRDECR_DATA/tydiqa-goldp/english_tydiqa_train.json"
    found = read_squad(path, languages=["en"], name="tydi")
    model = DrDecrTeacher.from_pretrained(arguments.model, dtype=torch.float32)
    names = list(found.passages)[: arguments.passages]
    kept = set(names)
    rows = [row for row in found.questions if row["document_ids"][0] in kept][: arguments.questions]
    torch.save(
        {
            "queries": model.encode_queries([row["query"] for row in rows]),
            "gold": [row["document_ids"][0] for row in rows],
            "ids": names,
            "passages": model.encode_documents([found.passages[name] for name in names], show_progress_bar=True),
        },
        arguments.vectors,
    )


def measure(arguments: argparse.Namespace) -> None:
    """Print the tables of docs/retrieval.md."""
    torch.set_num_threads(1)
    vectors = torch.load(arguments.vectors)
    measure_memory(vectors)
    if arguments.memory:
        return
    truth = exact_hits(vectors)
    measure_codecs(vectors, truth)
    measure_candidates(vectors, counts=(20, 50))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(required=True)
encoding = commands.add_parser("encode")
encoding.add_argument("model")
encoding.add_argument("vectors")
encoding.add_argument("--passages", type=int, default=512)
encoding.add_argument("--questions", type=int, default=200)
encoding.set_defaults(function=encode)
measuring = commands.add_parser("measure")
measuring.add_argument("vectors")
measuring.add_argument("--memory", action="store_true", help="only what files and memory cost a question")
measuring.set_defaults(function=measure)
chosen = parser.parse_args()
chosen.function(chosen)
