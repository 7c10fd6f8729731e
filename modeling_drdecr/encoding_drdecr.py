"""Texts to token embeddings: batches of like length, a progress bar, the order of the input."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .processing_drdecr import describe_texts

CPU_TOKENS_A_PASS = 1024
"""Tokens, padding too, that a CPU encodes at once: what the layers make of more leaves the cache, which costs a quarter of the
time (benchmarks/speed). An accelerator takes whole batches."""


@dataclass
class PackedEmbeddings:
    """Token embeddings of many texts in one tensor.

    Args:
        embeddings: `(total tokens, dim)`.
        offsets: int64 `(num_texts + 1,)`; text i owns rows `offsets[i]` to `offsets[i + 1]`.
    """

    embeddings: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Tensor:
        """Return the tokens of one text, `(tokens, dim)`, as a view."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        return self.embeddings[self.offsets[index] : self.offsets[index + 1]]


def pack_embeddings(embeddings: list[Tensor]) -> PackedEmbeddings:
    """Pack ragged `(tokens, dim)` tensors, as `encode_documents` returns them, into one tensor and offsets."""
    if not embeddings:
        raise ValueError("pack_embeddings expects at least one text, got none. Encode some texts first.")
    lengths = torch.tensor([0, *(len(tokens) for tokens in embeddings)])
    return PackedEmbeddings(torch.cat(embeddings), lengths.cumsum(0))


def pad_embeddings(embeddings: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad ragged `(tokens, dim)` tensors to `(num_texts, longest, dim)` and a boolean scoring mask."""
    if not embeddings:
        raise ValueError("pad_embeddings expects at least one text, got none. Encode some texts first.")
    padded = torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)
    lengths = torch.tensor([len(tokens) for tokens in embeddings], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


@torch.no_grad()
def encode_texts(
    model: Any,
    process: Callable[[list[str]], Any],
    texts: list[str],
    batch_size: int,
    show_progress_bar: bool | None,
) -> list[Tensor]:
    """Encode texts with a processor's function; see `DrDecrModel.encode_queries`."""
    texts = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"Expected a list of strings to encode, got {describe_texts(texts)}. Wrap a single text: [text]."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}. The default is 32.")
    # Characters stand in for tokens: sorting by them gives batches of like length before anything is tokenised.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    starts = range(0, len(texts), batch_size)
    hidden = len(starts) < 2 if show_progress_bar is None else not show_progress_bar
    # disable=None asks tqdm to draw on a terminal only.
    disable = True if hidden else (None if show_progress_bar is None else False)
    was_training = model.training
    model.eval()
    encoded: list[Tensor] = [torch.empty(0)] * len(texts)
    try:
        for start in tqdm(starts, desc="encoding", unit="batch", disable=disable):
            indices = order[start : start + batch_size]
            batch = {name: tensor.to(model.device) for name, tensor in process([texts[i] for i in indices]).items()}
            places = iter(indices)
            for part in _passes(batch):
                embeddings = model(**part).embeddings.float().cpu()
                for tokens, counts in zip(embeddings, part["scoring_mask"].cpu(), strict=True):
                    encoded[next(places)] = tokens[counts].clone()  # a view would keep the whole padded batch alive
    finally:
        model.train(was_training)
    return encoded


def _passes(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into forward passes, without the columns that only other passes need."""
    used = batch["attention_mask"] | batch["scoring_mask"]  # query expansion scores and may not be looked at
    size = len(used)
    if used.device.type == "cpu":
        size = max(1, CPU_TOKENS_A_PASS // max(used.shape[1], 1))
    if size >= len(used):
        yield batch
        return
    positions = torch.arange(1, used.shape[1] + 1)
    for start in range(0, len(used), size):
        rows = slice(start, start + size)
        width = max(int((used[rows] * positions).max()), 1)  # no encoder reads texts of no token
        yield {name: tensor[rows, :width] for name, tensor in batch.items()}
