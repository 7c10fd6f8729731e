"""Exact MaxSim search: every passage is scored, nothing is approximated. Below some 10^5 passages also the fastest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from drdecr.modeling_drdecr import maxsim, pad_embeddings

from .protocol import Filter, Hits

PASSAGES_PER_BLOCK = 256
"""Passages padded together; they are sorted by length first, so little of a block is padding."""


class ExactIndex:
    """Passage embeddings in memory, searched exhaustively.

    Args:
        document_ids: ids of the passages, without repetition.
        embeddings: one `(tokens, dim)` tensor a passage, as `encode_documents` returns them.
        dtype: of the kept embeddings (default float32; bfloat16 halves memory and is faster where the hardware has it).

    Raises:
        ValueError: for no passages, repeated ids, or another number of ids than of passages.
    """

    def __init__(self, document_ids: list[str], embeddings: list[Tensor], dtype: torch.dtype = torch.float32) -> None:
        if not document_ids or len(document_ids) != len(embeddings):
            raise ValueError(
                f"ExactIndex expects as many ids as passages and at least one, got {len(document_ids)} ids and "
                f"{len(embeddings)} passages. Pass the ids in the order of the texts that you encoded."
            )
        name, times = Counter(document_ids).most_common(1)[0]
        if times > 1:
            raise ValueError(f"Passage ids must differ, got {name!r} {times} times. Drop or rename the others.")
        order = sorted(range(len(document_ids)), key=lambda index: len(embeddings[index]))
        self.document_ids = [document_ids[index] for index in order]
        groups = [order[start : start + PASSAGES_PER_BLOCK] for start in range(0, len(order), PASSAGES_PER_BLOCK)]
        self._blocks = [_block([embeddings[index].to(dtype) for index in group]) for group in groups]

    def __len__(self) -> int:
        return len(self.document_ids)

    def search(
        self,
        query_embeddings: list[Tensor],
        top_k: int = 10,
        batch_size: int = 64,
        show_progress_bar: bool | None = None,
    ) -> Hits:
        """Find the passages with the highest MaxSim.

        Args:
            query_embeddings: one `(tokens, dim)` tensor a query, as `encode_queries` returns them.
            top_k: passages a query (default 10); fewer if the index holds fewer.
            batch_size: queries scored at once (default 64).
            show_progress_bar: default: only for more than one batch, and only on a terminal.

        Returns:
            `Hits`, best first. Equal scores are ordered by the passages' length, then by their order of addition.
        """
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}. Leave it out for the default.")
        starts = range(0, len(query_embeddings), batch_size)
        disable = (True if len(starts) < 2 else None) if show_progress_bar is None else not show_progress_bar
        # Queries of like length together: padding a query costs as much as a token of it.
        order = sorted(range(len(query_embeddings)), key=lambda query: len(query_embeddings[query]))
        hits = Hits([[]] * len(order), [[]] * len(order))
        for start in tqdm(starts, desc="searching", unit="batch", disable=disable):
            queries = order[start : start + batch_size]
            scores = self.scores([query_embeddings[query] for query in queries])
            # Not topk, which leaves the order of equal scores to chance.
            best, indices = scores.sort(dim=1, descending=True, stable=True)
            rows = zip(queries, indices[:, :top_k].tolist(), best[:, :top_k].tolist(), strict=True)
            for query, columns, values in rows:
                hits.document_ids[query] = [self.document_ids[column] for column in columns]
                hits.scores[query] = values
        return hits

    @torch.no_grad()
    def scores(self, query_embeddings: list[Tensor]) -> Tensor:
        """Score queries against every passage: float32 `(num_queries, num_passages)` in the order of `document_ids`."""
        queries, query_mask = pad_embeddings(query_embeddings)
        queries = queries.to(self._blocks[0][0].dtype)
        return torch.cat([maxsim(queries, documents, query_mask, mask) for documents, mask in self._blocks], dim=1)


def _block(embeddings: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad passages with copies of their own first token: a copy changes no maximum, so that no mask need be applied."""
    padded, mask = pad_embeddings(embeddings)
    filled = torch.where(mask[..., None], padded, padded[:, :1])
    return filled, mask | mask.any(dim=1, keepdim=True)


class InMemoryIndex:
    """An `ExactIndex` with its texts, searched as an index on disk is.

    Args:
        index: the passages.
        texts: `{passage_id: text}`.
    """

    def __init__(self, index: ExactIndex, texts: Mapping[str, str]) -> None:
        self.index, self.texts = index, texts

    def __len__(self) -> int:
        return len(self.index)

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None) -> Hits:
        """Find passages; `ValueError` for a filter, since these have no metadata."""
        if where:
            raise ValueError("These passages have no metadata to filter by. Make an index with `drdecr index build`.")
        return self.index.search(query_embeddings, top_k)

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        return list(self.texts)

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the texts."""
        return [{"document_id": name, "text": self.texts[name]} for name in passage_ids]
