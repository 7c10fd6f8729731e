"""Known-item search over some 61,000 package descriptions of Debian: what each setting of an index costs and finds.

```
python benchmarks/debian fetch FOLDER                     # apt-get update into FOLDER; needs Debian or Ubuntu
python benchmarks/debian encode MODEL FOLDER --tokens 48  # again after a kill: goes on
python benchmarks/debian measure FOLDER
```

The descriptions' licences differ by package: the texts stay in FOLDER, and are no part of this project.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "retrieval")]


PARTS = ("languages", "codecs", "candidates", "memory")


def _fetch(arguments: argparse.Namespace) -> None:
    from collection import fetch

    documents, questions = fetch(arguments.folder, arguments.questions)
    print(f"{arguments.folder}: {documents} documents, {questions} questions")


def _encode(arguments: argparse.Namespace) -> None:
    from encoding import encode

    count = encode(arguments.folder, arguments.model, arguments.tokens, arguments.most)
    print(f"{arguments.folder}: {count} documents encoded")


def _measure(arguments: argparse.Namespace) -> None:
    from settings import measure

    measure(arguments.folder, arguments.parts, arguments.questions, arguments.most)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(required=True)
fetching = commands.add_parser("fetch")
fetching.add_argument("folder", type=Path)
fetching.add_argument("--questions", type=int, default=200, help="a language")
fetching.set_defaults(function=_fetch)
encoding = commands.add_parser("encode")
encoding.add_argument("model")
encoding.add_argument("folder", type=Path)
encoding.add_argument("--tokens", type=int, default=48, help="of a document that are read")
encoding.add_argument("--most", type=int, default=10**9, help="documents")
encoding.set_defaults(function=_encode)
measuring = commands.add_parser("measure")
measuring.add_argument("folder", type=Path)
measuring.add_argument("parts", nargs="*", default=PARTS, choices=PARTS)
measuring.add_argument("--questions", type=int, default=50, help="a language, for all but `languages`")
measuring.add_argument("--most", type=int, default=10**9, help="documents")
measuring.set_defaults(function=_measure)
chosen = parser.parse_args()
chosen.function(chosen)
