"""The collection's tokens in an index, the questions' beside it; after a kill the same call goes on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.passages import token_spans

PASSAGES_PER_COMMIT = 1024


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def encode(folder: Path, model_name: str, tokens: int, most: int, batch_size: int = 32) -> int:
    """Encode questions and documents, in the order of the files.

    Args:
        folder: that `fetch` wrote.
        model_name: folder or Hub name.
        tokens: of a document that are read: its title, then its text.
        most: documents at most.
        batch_size: texts a forward pass.

    Returns:
        Documents in the index.
    """
    model = DrDecrModel.from_pretrained(model_name, dtype=torch.float32).eval()
    questions = folder / "questions.pt"
    if not questions.exists():
        rows = read_rows(folder / "questions.jsonl")
        embeddings = model.encode_queries([row["query"] for row in rows], batch_size)
        torch.save({"embeddings": embeddings, "rows": rows}, questions)
    about = {"model": model_name, "tokens": tokens}
    target = folder / "encoded"
    if (target / "manifest.json").exists():
        index = StoredIndex.open(target, writable=True, verify=False)
    else:
        index = StoredIndex.create(target, model.config.embedding_dim, "float16", metadata=about)
    with index:
        there = set(index.passage_ids())
        rows = [row for row in read_rows(folder / "documents.jsonl")[:most] if row["document_id"] not in there]
        for start in tqdm(range(0, len(rows), PASSAGES_PER_COMMIT), desc="encoding", unit="commit", disable=None):
            part = rows[start : start + PASSAGES_PER_COMMIT]
            texts = [_cut(row, model.processor.tokenizer, tokens) for row in part]
            index.add([row["document_id"] for row in part], _embeddings(model, texts, batch_size))
            index.commit()
        return len(index)


def _cut(row: dict[str, str], tokenizer: Any, tokens: int) -> str:
    text = f"{row['title']}. {row['text']}"
    spans = token_spans(tokenizer, text)
    return text if len(spans) <= tokens else text[: spans[tokens - 1][1]]


def _embeddings(model: DrDecrModel, texts: Sequence[str], batch_size: int) -> list[torch.Tensor]:
    return model.encode_documents(list(texts), batch_size, show_progress_bar=False)
