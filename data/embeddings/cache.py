"""The teacher's token embeddings, computed once and looked up in every step and epoch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from torch import Tensor

from drdecr.modeling_drdecr import DrDecrModel, PackedEmbeddings, pack_embeddings, pad_embeddings


class Tokens(ABC):
    """Token embeddings of many texts, by key: a question's own text, or the id of a passage."""

    rows: Mapping[str, Any]
    """The keys, in order."""

    @abstractmethod
    def tokens(self, key: str) -> Tensor:
        """Return one text's token embeddings, `(tokens, dim)`.

        Raises:
            ValueError: if the key was never encoded.
        """

    @abstractmethod
    def flags(self, key: str) -> Tensor:
        """Return which of these tokens stand for the text itself, boolean `(tokens,)`."""

    @abstractmethod
    def to_dataset(self) -> Dataset:
        """Return the tokens as rows of `text` (its key), `embeddings` (float16, `(tokens, dim)`) and `text_flags`."""

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def padded(self, keys: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Look up several texts.

        Returns:
            Embeddings `(len(keys), longest, dim)`, the boolean scoring mask and the boolean text mask of that shape.
        """
        embeddings, scoring_mask = pad_embeddings([self.tokens(key) for key in keys])
        text_mask = torch.zeros_like(scoring_mask)
        for index, key in enumerate(keys):
            flags = self.flags(key)
            text_mask[index, : len(flags)] = flags
        return embeddings, scoring_mask, text_mask

    def unknown(self, key: str) -> ValueError:
        """Return the error for a key that was never encoded."""
        return ValueError(
            f"The teacher's cache of {len(self)} texts does not hold {key!r}. Build it from the same data."
        )


class TokenCache(Tokens):
    """Token embeddings of many texts in memory, by key.

    A token takes `2 * dim` bytes: a question of 20 tokens 5 kB, a passage of 150 tokens 38 kB at 128 dimensions.

    Args:
        keys: one a text, without repetition.
        embeddings: the scoring tokens of each text, `(tokens, dim)`.
        text_flags: boolean `(tokens,)` for each text: which of these tokens stand for the text itself.
        dtype: kept precision (default float16; smallest token cosine against float32 above 0.99999).
    """

    def __init__(
        self,
        keys: Sequence[str],
        embeddings: list[Tensor],
        text_flags: list[Tensor],
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.rows = {key: row for row, key in enumerate(keys)}
        if len(self.rows) != len(keys):
            raise ValueError(
                f"Keys must differ, got {len(keys)} keys of which {len(self.rows)} differ. Drop duplicates."
            )
        if [len(tokens) for tokens in embeddings] != [len(flags) for flags in text_flags]:
            raise ValueError("text_flags: expected one flag for each token of each text. Make both with one processor.")
        broken = next(
            (key for key, tokens in zip(keys, embeddings, strict=True) if not torch.isfinite(tokens).all()), None
        )
        if broken is not None:
            raise ValueError(
                f"The model's tokens of {broken[:80]!r} hold NaN or infinity: its training diverged, or its weights are broken. "
                "Choose another checkpoint."
            )
        self.packed: PackedEmbeddings = pack_embeddings([tokens.to(dtype) for tokens in embeddings])
        self.text_flags = torch.cat(text_flags)

    @classmethod
    def of_queries(cls, model: DrDecrModel, texts: Sequence[str], **kwargs: Any) -> "TokenCache":
        """Encode questions, keyed by their own text; duplicates once. `kwargs` go to `encode_queries`."""
        unique = list(dict.fromkeys(texts))
        embeddings = model.encode_queries(unique, **kwargs)
        return cls(unique, embeddings, text_flags(model.processor.process_queries, unique, embeddings))

    @classmethod
    def of_documents(cls, model: DrDecrModel, passages: dict[str, str], **kwargs: Any) -> "TokenCache":
        """Encode passages `{document_id: text}`, keyed by their id. `kwargs` go to `encode_documents`."""
        texts = list(passages.values())
        embeddings = model.encode_documents(texts, **kwargs)
        return cls(list(passages), embeddings, text_flags(model.processor.process_documents, texts, embeddings))

    def to_dataset(self) -> Dataset:
        """Return the cache as rows of `text` (its key), `embeddings` (float16, `(tokens, dim)`) and `text_flags`."""
        dim = self.packed.embeddings.shape[1]
        offsets = pa.array(self.packed.offsets.numpy().astype(np.int32))
        values = pa.array(self.packed.embeddings.to(torch.float16).numpy().ravel())
        table = {
            "text": pa.array(list(self.rows)),
            "embeddings": pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(values, dim)),
            "text_flags": pa.ListArray.from_arrays(offsets, pa.array(self.text_flags.numpy())),
        }
        tokens = List(List(Value("float16"), length=dim))
        features = Features({"text": Value("string"), "embeddings": tokens, "text_flags": List(Value("bool"))})
        return Dataset(pa.table(table, schema=features.arrow_schema))

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> "TokenCache":
        """Make a cache of such rows."""
        columns = dataset.with_format("arrow")[:]
        embeddings, flags = (columns[name].combine_chunks() for name in ("embeddings", "text_flags"))
        dim = dataset.features["embeddings"].feature.length
        values = np.array(embeddings.flatten().flatten()).reshape(-1, dim)
        lengths = embeddings.value_lengths().to_pylist()
        flat = torch.from_numpy(np.array(flags.flatten()))
        return cls(
            columns["text"].to_pylist(), list(torch.from_numpy(values).split(lengths)), list(flat.split(lengths))
        )

    def tokens(self, key: str) -> Tensor:
        """Return one text's token embeddings, `(tokens, dim)`."""
        if key not in self.rows:
            raise self.unknown(key)
        return self.packed[self.rows[key]]

    def flags(self, key: str) -> Tensor:
        """Return which of these tokens stand for the text itself, boolean `(tokens,)`."""
        start, stop = self.packed.offsets[self.rows[key] : self.rows[key] + 2]
        return self.text_flags[start:stop]


def text_flags(process: Any, texts: list[str], embeddings: list[Tensor], chunk: int = 1024) -> list[Tensor]:
    """Return which scoring tokens of each text stand for the text itself.

    Args:
        process: the processor's function that the texts were encoded with.
        texts: that were encoded.
        embeddings: what came of them.
        chunk: texts processed at once (default 1024).
    """
    flags: list[Tensor] = []
    for start in range(0, len(texts), chunk):
        batch = process(texts[start : start + chunk])
        flags += [text[scoring] for text, scoring in zip(batch["text_mask"], batch["scoring_mask"], strict=True)]
    # Of `legacy_primeqa` documents padding scores too, as much as the batch has of it: its flags are false, at the end.
    return [
        torch.nn.functional.pad(own, (0, len(tokens) - len(own))) for own, tokens in zip(flags, embeddings, strict=True)
    ]
