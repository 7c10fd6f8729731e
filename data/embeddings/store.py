"""The teacher's token embeddings on disk, by its weights and each text: encoded once, for every run and every process.

```
FOLDER/queries-4f1c.../a07b.../      shards of the texts that one call had to encode (`shards.py`)
FOLDER/documents-4f1c.../...
```

A later call reads what is there and encodes what is not.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor

from drdecr.data.files import KEY_BYTES, TextKeys, text_key, value_digest
from drdecr.data.passages import PassageStore
from drdecr.data.shards import Shard, is_complete, map_in_shards, open_shards
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.encoder import model_digest

from .cache import TokenCache, Tokens, text_flags

KINDS = ("queries", "documents")


class StoredTokens(Tokens):
    """Token embeddings of many texts, mapped from the shards of a `token_store` folder.

    Args:
        facts: what the tokens depend on, as `open_shards` gives it.
        shards: as `open_shards` gives them, of one teacher.
        names: `{key: text}`: what a text is looked up by; None where it is looked up by itself (questions).

    Raises:
        ValueError: naming the first text that was never encoded.
    """

    def __init__(
        self, facts: Mapping[str, Any], shards: Sequence[Shard], names: Mapping[str, str] | None = None
    ) -> None:
        self.facts, self._shards = facts, shards
        self.dtype = shards[0]["embeddings"].dtype
        halves = [shard["keys"].numpy().reshape(-1).view("<u8").reshape(-1, 2) for shard in shards]
        joined = np.concatenate(halves)
        self._order = np.argsort(joined[:, 0], kind="stable")
        self._sorted = joined[self._order]
        self._starts = np.cumsum([0, *(len(half) for half in halves)])
        self.rows: Mapping[str, Any] = names if names is not None else {}
        self._by_itself = names is None
        missing = next((text for text in (names or {}).values() if self._place(text) is None), None)
        if missing is not None:
            raise self.unknown(missing[:80])

    def __len__(self) -> int:
        return len(self._order) if self._by_itself else len(self.rows)

    def __contains__(self, key: str) -> bool:
        return self._place(key) is not None if self._by_itself else key in self.rows

    def tokens(self, key: str) -> Tensor:
        """Return one text's token embeddings, `(tokens, dim)`, a view of the file."""
        shard, start, stop = self._span(key)
        return shard["embeddings"][start:stop]

    def flags(self, key: str) -> Tensor:
        """Return which of these tokens stand for the text itself, boolean `(tokens,)`."""
        shard, start, stop = self._span(key)
        return shard["text_flags"][start:stop]

    def named(self, names: Mapping[str, str] | None) -> "StoredTokens":
        """Return the same tokens, looked up by the keys of `{key: text}`; None: each by itself."""
        return StoredTokens(self.facts, self._shards, names)

    def to_dataset(self) -> Dataset:
        """Return the tokens as rows of `text` (its key), `embeddings` and `text_flags`; all of them are read."""
        keys = list(self.rows)
        return TokenCache(keys, [self.tokens(key) for key in keys], [self.flags(key) for key in keys]).to_dataset()

    def _span(self, key: str) -> tuple[Shard, int, int]:
        place = self._place(key if self._by_itself else self.rows[key]) if key in self else None
        if place is None:
            raise self.unknown(key)
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        shard, row = self._shards[number], place - int(self._starts[number])
        start, stop = shard["offsets"][row : row + 2].tolist()
        return shard, start, stop

    def has_key(self, key: bytes) -> bool:
        """Tell whether a text with this `text_key` was encoded."""
        return self._place_of(key) is not None

    def _place(self, text: str) -> int | None:
        """Return the row of a text among all shards'."""
        return self._place_of(text_key(text))

    def _place_of(self, key: bytes) -> int | None:
        first, second = np.frombuffer(key, dtype="<u8")
        index = int(np.searchsorted(self._sorted[:, 0], first))
        while index < len(self._sorted) and self._sorted[index, 0] == first:
            if self._sorted[index, 1] == second:
                return int(self._order[index])
            index += 1
        return None


def stored_queries(
    model: DrDecrModel, texts: Iterable[str], folder: Path, named: bool = True, **settings: Any
) -> StoredTokens:
    """Return the model's tokens of questions, keyed by their own text; arguments as in `stored_documents`.

    Args:
        model: that encodes.
        texts: the questions.
        folder: of the tokens of all teachers.
        named: keep the texts, so that `rows` lists them (default); False: memory holds nothing of texts that are a sequence
            on disk, such as a data set's column.
        **settings: see there.
    """
    if not named:
        return _stored(
            model, "queries", texts if isinstance(texts, Sequence) else list(texts), None, folder, **settings
        )
    names = {text: text for text in texts}
    return _stored(model, "queries", list(names), names, folder, **settings)


def stored_documents(model: DrDecrModel, passages: Mapping[str, str], folder: Path, **settings: Any) -> StoredTokens:
    """Return the model's tokens of passages, keyed by their id; what `folder` does not hold yet is encoded.

    Several processes, started by `accelerate launch` or torchrun, share the work and wait for each other.

    Args:
        model: that encodes.
        passages: `{document_id: text}`.
        folder: of the tokens of all teachers.
        **settings: `dtype` that is kept (default float16), `rows_per_shard` (default 1024), `batch_size` (default 32).
    """
    texts = passages.texts() if isinstance(passages, PassageStore) else list(passages.values())
    return _stored(model, "documents", texts, passages, folder, **settings)


def open_tokens(folder: Path, check: bool = True) -> StoredTokens:
    """Open the tokens of one teacher and kind, such as `FOLDER/queries-4f1c...`, looked up by text.

    Raises:
        ValueError: if there are none, or naming a shard that is cut off or changed.
    """
    groups = _groups(folder)
    if not groups:
        raise ValueError(
            f"{folder}: expected complete tokens of a teacher, got none. Make them with `drdecr data annotate`."
        )
    opened = [open_shards(group, check) for group in groups]
    return StoredTokens(opened[0][0], [shard for _, shards in opened for shard in shards])


def write_tokens(tokens: StoredTokens, texts: Iterable[str], folder: Path, rows_per_shard: int = 1024) -> None:
    """Write the tokens of these texts, and of no others, into a folder of their own that `open_tokens` opens.

    Args:
        tokens: looked up by text.
        texts: what is written, in this order; duplicates once.
        folder: of the shards.
        rows_per_shard: default 1024.
    """
    sequence = texts if isinstance(texts, Sequence) else list(texts)
    places = TextKeys.of(sequence).different()

    def write_part(rows: range) -> Shard:
        part = [sequence[places[row]] for row in rows]
        embeddings = [tokens.tokens(text) for text in part]
        return _shard_of(part, TokenCache(part, embeddings, [tokens.flags(text) for text in part], tokens.dtype))

    map_in_shards(len(places), write_part, folder, tokens.facts, rows_per_shard, "writing tokens")


def _stored(
    model: Any,
    kind: str,
    texts: Sequence[str],
    names: Mapping[str, str] | None,
    folder: Path,
    dtype: torch.dtype = torch.float16,
    rows_per_shard: int = 1024,
    batch_size: int = 32,
) -> StoredTokens:
    facts = {"kind": kind, "model": model_digest(model), "computed_in": str(model.dtype), "kept_in": str(dtype)}
    teacher_folder = folder / f"{kind}-{value_digest(facts)[:16]}"
    shards = [shard for group in _groups(teacher_folder) for shard in open_shards(group)[1]]
    known = StoredTokens(facts, shards) if shards else None
    keys = TextKeys.of(texts)
    missing = [place for place in keys.different() if known is None or not known.has_key(keys[place])]
    PartialState().wait_for_everyone()  # nobody completes a group that another process has not yet looked for
    if missing:
        group = teacher_folder / hashlib.sha256(b"".join(keys[place] for place in missing)).hexdigest()[:16]

        def encode_part(rows: range) -> Shard:
            return _encoded(model, kind, [texts[missing[row]] for row in rows], dtype, batch_size)

        map_in_shards(len(missing), encode_part, group, facts, rows_per_shard, f"encoding {kind}")
        shards += open_shards(group, check=False)[1]  # their checksums were just written
    return StoredTokens(facts, shards, names)


def _groups(folder: Path) -> list[Path]:
    return [group for group in (folder, *sorted(folder.glob("*"))) if is_complete(group)]


def _encoded(model: Any, kind: str, texts: list[str], dtype: torch.dtype, batch_size: int) -> Shard:
    encode, process = (
        (model.encode_queries, model.processor.process_queries)
        if kind == "queries"
        else (model.encode_documents, model.processor.process_documents)
    )
    embeddings = encode(texts, batch_size=batch_size)
    cache = TokenCache(texts, embeddings, text_flags(process, texts, embeddings), dtype)  # refuses NaN
    return _shard_of(texts, cache)


def _shard_of(texts: Sequence[str], cache: TokenCache) -> Shard:
    keys = np.frombuffer(TextKeys.of(texts).content, dtype=np.uint8).reshape(len(texts), KEY_BYTES)
    tokens = {"embeddings": cache.packed.embeddings, "offsets": cache.packed.offsets, "text_flags": cache.text_flags}
    return {**tokens, "keys": torch.from_numpy(keys.copy())}
