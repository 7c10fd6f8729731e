"""Open the checkpoints of `make_checkpoints.py` in another library and compare its token embeddings with drdecr's.

    python benchmarks/loaders/compare.py {sentence-transformers,pylate,stanford} FOLDER

Prints a table. Exit status 1 if a difference is found that saving did not warn of. Needs only the library itself:
PyLate 1.6 and Stanford ColBERT 0.2.22 each want an environment of their own (docs/loaders.md).
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

TOLERANCE = 1e-5
Encoded = dict[str, list[torch.Tensor]]


def with_sentence_transformers(folder: str, texts: list[str]) -> Encoded:
    """Encode with sentence-transformers 6, which runs none of our code."""
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(folder, device="cpu", local_files_only=True)
    return {"queries": model.encode_query(texts), "documents": model.encode_document(texts)}


def with_pylate(folder: str, texts: list[str]) -> Encoded:
    """Encode with PyLate 1.6; `prompt_name` puts our prefixes before the texts."""
    from pylate import models

    model = models.ColBERT(folder, device="cpu", local_files_only=True)
    settings: dict[str, Any] = {"convert_to_numpy": False, "show_progress_bar": False}
    return {
        "queries": model.encode(texts, is_query=True, prompt_name="query", **settings),
        "documents": model.encode(texts, is_query=False, prompt_name="document", **settings),
    }


def with_stanford(folder: str, texts: list[str]) -> Encoded:
    """Encode with colbert-ai."""
    from colbert.infra import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint
    from colbert.modeling.colbert import ColBERT

    ColBERT.try_load_torch_extensions = classmethod(lambda cls, use_gpu: None)  # compiled C++, for scoring only
    model = Checkpoint(folder, colbert_config=ColBERTConfig(), verbose=0)
    return {
        "queries": list(model.queryFromText(texts)),
        "documents": model.docFromText(texts, bsize=4, keep_dims=False)[0],
    }


LOADERS: dict[str, tuple[str, str, Callable[[str, list[str]], Encoded]]] = {
    "sentence-transformers": ("sentence-transformers", "sentence-transformers", with_sentence_transformers),
    "pylate": ("pylate", "PyLate", with_pylate),
    "stanford": ("colbert-ai", "Stanford ColBERT", with_stanford),
}


def compare(encode: Callable[[str, list[str]], Encoded], folder: Path) -> dict[str, str]:
    """Return `equal` or what differs, for queries and documents."""
    expected = torch.load(folder / "expected.pt", weights_only=True)
    try:
        found = encode(str(folder / "model"), expected["texts"])
    except Exception as error:  # noqa: BLE001  # whatever a library raises is a finding
        return dict.fromkeys(("queries", "documents"), f"fails: {type(error).__name__}")
    return {side: difference(found[side], expected[side]) for side in ("queries", "documents")}


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> str:
    """Say how two lists of token embeddings differ, texts in the same order."""
    lengths = sum(len(one) != len(other) for one, other in zip(found, expected, strict=True))
    if lengths:
        return f"{lengths} of {len(expected)} lengths differ"
    largest = float((torch.cat(found).cpu() - torch.cat(expected)).abs().max())
    return "equal" if largest <= TOLERANCE else f"differs by {largest:.0e}"


def main(loader: str, root: str) -> int:
    """Compare every checkpoint below `root`; return the number of differences without a warning."""
    package, title, encode = LOADERS[loader]
    rows, silent = [], 0
    for folder in sorted(path.parent for path in Path(root).glob("*/*/expected.pt")):
        found = compare(encode, folder)
        warned = any(title in limit.split(":")[0] for limit in json.loads((folder / "limits.json").read_text()))
        silent += not warned and set(found.values()) != {"equal"}
        rows.append([folder.parent.name, folder.name, found["queries"], found["documents"], "yes" if warned else "no"])
    print(f"\n{package} {version(package)}, transformers {version('transformers')}, torch {torch.__version__}\n")
    print("| encoder | settings | queries | documents | warned |\n|---|---|---|---|---|")
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    print(f"\n{silent} differences without a warning")
    return silent


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
