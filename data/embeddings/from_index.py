"""Passages' token embeddings out of an index that is there: a student learns to search it as it stands."""

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from drdecr.data.readers.text import expanded
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.encoder import model_digest
from drdecr.retrieval.passages import titled

from .cache import TokenCache, Tokens


class IndexTokens(Tokens):
    """Token embeddings of passages, read from an index's files as they are asked for.

    A passage is looked up by its id, and where the index has documents (`drdecr index build`) by that of a document that was not
    cut. Tokens are as the index keeps them: rounded by its codec, pooled by its factor. Which of them stand for the text
    itself is not kept there: all are said to.

    Args:
        index: opened.
        passages: those that are needed, `{document_id: text}`.

    Raises:
        ValueError: naming the first passage that is not there, that was cut into several, or that has another text there.
    """

    def __init__(self, index: StoredIndex, passages: Mapping[str, str]) -> None:
        self.index = index
        places = index.places()
        self.rows: dict[str, Any] = {name: _place(index, places, name, text) for name, text in passages.items()}

    def named(self, passages: Mapping[str, str]) -> "IndexTokens":
        """Return the tokens of these passages."""
        return IndexTokens(self.index, passages)

    def tokens(self, key: str) -> Tensor:
        """Return one passage's token embeddings, float32 `(tokens, dim)`."""
        if key not in self.rows:
            raise self.unknown(key)
        segment, row = self.rows[key]
        return self.index.segments[segment].tokens(row)

    def flags(self, key: str) -> Tensor:
        """Return true for each of these tokens."""
        return torch.ones(len(self.tokens(key)), dtype=torch.bool)

    def to_dataset(self) -> Dataset:
        """Return the tokens as rows of `text` (its key), `embeddings` and `text_flags`; all of them are read."""
        keys = list(self.rows)
        return TokenCache(keys, [self.tokens(key) for key in keys], [self.flags(key) for key in keys]).to_dataset()


def read_index_tokens(path: str, check: bool = True) -> IndexTokens:
    """Read passages' tokens from an index.

    Args:
        path: of its folder, as `drdecr index build`, `drdecr index compress` or `StoredIndex` write it.
        check: compare the checksums (default True): every byte is read once.
    """
    return IndexTokens(StoredIndex.open(expanded(path), verify=check), {})


def _place(index: StoredIndex, places: Mapping[str, tuple[int, int]], name: str, text: str) -> tuple[int, int]:
    if name not in places and f"{name}#1" in places:
        raise ValueError(
            f"{index.folder}: document {name!r} was cut into several passages. Train on the index's passages, by their ids "
            f"({name}#0 ...), or index documents that the model reads whole."
        )
    place = places.get(name, places.get(f"{name}#0"))
    if place is None:
        raise ValueError(
            f"{index.folder}: expected the passages that are trained on, got none of the id {name!r}. Index them, too."
        )
    held = index.segments[place[0]].table.payload(place[1])
    if "text" in held and text.strip() not in (held["text"].strip(), titled(held.get("title"), held["text"])):
        raise ValueError(
            f"{index.folder}: passage {name!r} has another text there than in the data. Index the same collection."
        )
    return place


def check_index_maker(tokens: IndexTokens, teacher: DrDecrModel | None) -> IndexTokens:
    """Return an index's tokens if the teacher made it, or nobody knows who did.

    Raises:
        ValueError: naming the model that made it.
    """
    made_by = tokens.index.metadata.get("model_digest")
    if teacher is not None and made_by not in (None, model_digest(teacher)):
        raise ValueError(
            f"{tokens.index.folder}: expected an index of the recipe's teacher, got one that was made with "
            f"{tokens.index.metadata.get('model')}. Name that teacher, or index with this one."
        )
    return tokens
