"""Texts to token embeddings: batches of like length, a progress bar, the order of the input."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .processing_drdecr import describe_texts

CPU_TOKENS_PER_PASS = 1024
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
    hidden = len(texts) <= batch_size if show_progress_bar is None else not show_progress_bar
    # disable=None asks tqdm to draw on a terminal only.
    disable = True if hidden else (None if show_progress_bar is None else False)
    encoded: list[Tensor] = [torch.empty(0)] * len(texts)
    with tqdm(total=len(texts), desc="encoding", unit="text", disable=disable) as bar:
        for index, tokens in encode_in_turn(model, process, texts, batch_size):
            encoded[index] = tokens
            bar.update()
    return encoded


def encode_in_turn(
    model: Any, process: Callable[[list[str]], Any], texts: Sequence[str], batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the place of a text and its tokens, as they are encoded: the longest first."""
    # Characters stand in for tokens: sorting by them gives batches of like length before anything is tokenised.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)

    def passes() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(texts), batch_size):
            batch = process([texts[index] for index in order[start : start + batch_size]])
            yield from _passes({name: tensor.to(model.device) for name, tensor in batch.items()})

    def encode(part: dict[str, Tensor]) -> list[Tensor]:
        embeddings = model(**part).embeddings.float().cpu()
        # Cloned: a view would keep the whole padded batch alive.
        return [tokens[counts].clone() for tokens, counts in zip(embeddings, part["scoring_mask"].cpu(), strict=True)]

    was_training = model.training
    model.eval()
    places = iter(order)
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    try:
        for encoded in map_in_threads(encode, passes(), threads):
            yield from zip(islice(places, len(encoded)), encoded, strict=True)
    finally:
        model.train(was_training)


def _passes(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into forward passes, without the columns that only other passes need."""
    used = batch["attention_mask"] | batch["scoring_mask"]  # query expansion scores and may not be looked at
    size = len(used)
    if used.device.type == "cpu":
        size = max(1, CPU_TOKENS_PER_PASS // max(used.shape[1], 1))
    if size >= len(used):
        yield batch
        return
    positions = torch.arange(1, used.shape[1] + 1)
    for start in range(0, len(used), size):
        rows = slice(start, start + size)
        width = max(int((used[rows] * positions).max()), 1)  # no encoder reads texts of no token
        yield {name: tensor[rows, :width] for name, tensor in batch.items()}


Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield what is made of each item, in their order, without gradients.

    A piece of work has more in it than its matrix products, and little of the rest is shared out well by torch, which
    divides every operation by itself. Where there are fewer items than threads, each has all threads, one after another.

    Args:
        work: of one item; as many run at once as there are threads.
        items: read as they are needed, by the caller's thread.
        threads: as `torch.get_num_threads()` says of the caller's thread; 1: no other is begun.

    Raises:
        Exception: what `work` raises, in the order of the items; what has not begun is left.
    """
    items = iter(items)
    first = list(islice(items, threads))
    if threads == 1 or len(first) < threads:
        for item in chain(first, items):
            with torch.no_grad():  # not around the yield, where it would be the caller's too
                result = work(item)
            yield result
        return
    autocast = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def run_as_caller(item: Item) -> Result:
        with torch.no_grad(), torch.autocast("cpu", *autocast):  # a thread knows neither
            return work(item)

    # torch's setting is a thread's own, and that of all that begin later: it is put back.
    pool = ThreadPoolExecutor(threads, "drdecr", torch.set_num_threads, (1,))
    pending: deque[Future[Result]] = deque()
    try:
        for item in chain(first, items):
            pending.append(pool.submit(run_as_caller, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
