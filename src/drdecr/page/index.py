"""What the page searches: an index that is there, or one that is made the first time and kept."""

import os
from collections.abc import Mapping
from pathlib import Path

from drdecr.data.files import value_digest
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import build_index, check_index, open_or_create_index
from drdecr.retrieval.encoder import model_digest
from drdecr.retrieval.passages import Document, Splitter
from drdecr.retrieval.retriever import Searchable, open_index


def open_page_index(folder: Path, model: DrDecrModel) -> Searchable:
    """Open an index that `drdecr encode` or `drdecr index` made.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its vectors have another width than the model's.
    """
    check_index(folder)
    found = open_index(folder)
    dim = getattr(found, "dim", model.config.embedding_dim)
    if dim != model.config.embedding_dim:
        raise ValueError(
            f"{folder}: expected vectors of {model.config.embedding_dim} dimensions, as the model makes them, got {dim}. "
            "Name the index that this model encoded."
        )
    return found


def kept_index(
    model: DrDecrModel, passages: Mapping[str, str], collection: str, cache_dir: Path | None = None
) -> StoredIndex:
    """Return an index of passages by a model: made once, and brought up to date when some of them have changed.

    Args:
        model: with its processor; trained on, it is another one and has another index.
        passages: `{document_id: text}`.
        collection: name of where they come from.
        cache_dir: default `$DRDECR_CACHE`, or `~/.cache/drdecr`; the index is `page/<digest>` in it.
    """
    root = cache_dir or Path(os.environ.get("DRDECR_CACHE") or Path.home() / ".cache" / "drdecr")
    digest = model_digest(model)
    folder = root.expanduser() / "page" / value_digest([digest, collection])[:16]
    documents = (Document(name, text) for name, text in passages.items())
    with open_or_create_index(folder, model.config.embedding_dim, {"model": digest}, "float16", 1) as index:
        build_index(model, documents, index, Splitter(), prune=True)
    return StoredIndex.open(folder, verify=False)  # read through a moment ago
