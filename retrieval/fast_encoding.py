"""A model that encodes a collection faster: in fewer bits, where a measurement finds it faster here and close enough."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from drdecr.modeling_drdecr import DrDecrModel

SMALLEST_COSINE = 0.995
"""What a token of a faster model must have in common with the float32 one, at least."""

CLEARLY_FASTER = 1.1
"""How many times as fast fewer bits must be to be worth their rounding."""


@dataclass(frozen=True)
class EncoderChoice:
    """What was measured, and the model that was chosen.

    Args:
        name: of the choice, `float32`, `bfloat16` or `int8`.
        model: to encode with.
        seconds: that each took for the sample; None for one that this machine cannot run.
        cosines: the smallest cosine between a token of each and the float32 one.
    """

    name: str
    model: DrDecrModel
    seconds: dict[str, float | None]
    cosines: dict[str, float]


def int8_copy(model: DrDecrModel) -> DrDecrModel:
    """Return a copy for CPUs whose encoder multiplies in int8 (dynamic quantisation of the linear layers).

    Weights are rounded once, with a scale for each row, activations as they come; word embeddings are shared with the model,
    the projection stays in float32. How close it is depends on the encoder and on the CPU: `fastest_encoder` measures it.
    The copy encodes; it is neither trained nor saved.
    """
    embeddings = model.get_input_embeddings()
    narrow = copy.deepcopy(model, {id(embeddings): embeddings}).eval()
    layers = {nn.Linear: per_channel_dynamic_qconfig}
    with warnings.catch_warnings():
        # Goes with torch's own quantised tensors (pytorch #184982), when torchao's are as fast on a CPU.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*quantize_per_")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.ao.quantization")
        quantize_dynamic(narrow.encoder, layers, dtype=torch.qint8, inplace=True)
    return narrow


def bfloat16_copy(model: DrDecrModel) -> DrDecrModel:
    """Return a copy in bfloat16."""
    narrow: Any = copy.deepcopy(model)
    return narrow.to(torch.bfloat16).eval()


def fastest_encoder(
    model: DrDecrModel,
    texts: list[str],
    smallest_cosine: float = SMALLEST_COSINE,
    repeats: int = 3,
    batch_size: int = 32,
) -> EncoderChoice:
    """Encode some passages in float32, bfloat16 and int8, in turn, and choose.

    Which is faster depends on the CPU: bfloat16 halves the time where it is an instruction and takes 300 times as long where
    it is emulated; the first passage tells.

    Args:
        model: in float32, on a CPU.
        texts: a sample of what will be encoded, some tens of passages.
        smallest_cosine: that a faster model's tokens must keep with the float32 ones (default 0.995).
        repeats: rounds, of which the quickest counts (default 3).
        batch_size: texts a forward pass (default 32).

    Returns:
        The choice; its model is `model` itself where nothing is clearly faster.

    Raises:
        ValueError: without texts.
    """
    if not texts:
        raise ValueError("fastest_encoder measures on a sample of passages, got none. Give some of those to encode.")
    ways: dict[str, DrDecrModel] = {"float32": model, "int8": int8_copy(model), "bfloat16": bfloat16_copy(model)}
    exact = model.encode_documents(texts, batch_size, show_progress_bar=False)
    first = _seconds(lambda: model.encode_documents(texts[:1]))
    seconds: dict[str, float | None] = {}
    cosines = {"float32": 1.0}
    for name in ("int8", "bfloat16"):
        if not _runs(ways[name], texts[:1], limit=10 * first):
            seconds[name] = None
            continue
        cosines[name] = _smallest_cosine(exact, ways[name].encode_documents(texts, batch_size, False))
    rounds: dict[str, list[float]] = {name: [] for name in ways if name not in seconds}
    for _ in range(repeats):
        for name, found in rounds.items():
            found.append(_seconds(partial(ways[name].encode_documents, texts, batch_size, False)))
    seconds |= {name: min(found) for name, found in rounds.items()}
    name = choose(seconds, cosines, smallest_cosine)
    return EncoderChoice(name, ways[name], seconds, cosines)


def choose(seconds: dict[str, float | None], cosines: dict[str, float], smallest_cosine: float) -> str:
    """Return the fastest way of those that keep the cosine; `float32` unless another is clearly faster."""
    base = seconds["float32"] or 0.0
    allowed = {
        name: taken
        for name, taken in seconds.items()
        if taken is not None and cosines[name] >= smallest_cosine and base > CLEARLY_FASTER * taken
    }
    return min(allowed, key=lambda name: allowed[name], default="float32")


def _runs(model: DrDecrModel, texts: list[str], limit: float) -> bool:
    """Tell whether a way works on this machine, and not many times slower."""
    try:
        return _seconds(lambda: model.encode_documents(texts)) < limit
    except (RuntimeError, NotImplementedError):  # no kernel for it
        return False


def _seconds(call: Callable[[], Any]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def _smallest_cosine(exact: list[Tensor], found: list[Tensor]) -> float:
    return torch.cosine_similarity(torch.cat(exact), torch.cat(found).float(), dim=-1).min().item()
