"""A model that encodes a collection faster: in fewer bits, where a measurement finds it faster here and close enough."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from drdecr.modeling_drdecr import DrDecrModel

from .int8_linear import Int8Linear

SMALLEST_COSINE = 0.995
"""What a token of a faster model must have in common with the float32 one, at least."""

CLEARLY_FASTER = 1.1
"""How many times as fast fewer bits must be to be worth their rounding."""

MOST_SLOWER = 3
"""How many times as long the first passage may take in fewer bits, before the others are tried."""

SAMPLE = 16
"""Passages that show the sizes of channels."""


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


def int8_copy(model: DrDecrModel, texts: list[str] | None = None) -> DrDecrModel:
    """Return a copy for CPUs whose encoder multiplies in int8 (dynamic quantisation of the linear layers).

    Weights are rounded once, activations as they come (`Int8Linear`); word embeddings are shared with the model, the
    projection stays in float32. How close it is depends on the encoder: `fastest_encoder` measures it.
    The copy encodes; it is neither trained nor saved.

    Args:
        model: in float32, on a CPU.
        texts: some passages, of which the first 16 show how large each channel is. Without them large channels are rounded
            as finely as small ones, and the copy is less close.

    Raises:
        RuntimeError: torch has no int8 products for this machine.
    """
    embeddings = model.get_input_embeddings()
    narrow = copy.deepcopy(model, {id(embeddings): embeddings}).eval()
    layers = {name: layer for name, layer in narrow.encoder.named_modules() if type(layer) is nn.Linear}
    sizes = _channel_sizes(narrow, layers, texts[:SAMPLE]) if texts else {}
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(narrow.encoder.get_submodule(parent), attribute, Int8Linear(layer, sizes.get(name)))
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

    Which is faster depends on the CPU: bfloat16 halves the time where it is an instruction and takes many times as long where
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
    ways: dict[str, DrDecrModel] = {"float32": model, "bfloat16": bfloat16_copy(model)}
    seconds: dict[str, float | None] = {}
    try:
        ways["int8"] = int8_copy(model, texts)
    except RuntimeError:  # this build of torch has no int8 products
        seconds["int8"] = None
    exact = model.encode_documents(texts, batch_size, show_progress_bar=False)
    first = _seconds(lambda: model.encode_documents(texts[:1]))
    cosines = {"float32": 1.0}
    for name in [name for name in ways if name != "float32"]:
        if not _runs(ways[name], texts[:1], limit=MOST_SLOWER * first):
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


def _channel_sizes(model: DrDecrModel, layers: dict[str, nn.Linear], texts: list[str]) -> dict[str, Tensor]:
    """Return the root mean square of every input channel of the layers, by name, over the tokens of some texts."""
    squares: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        squares[name].append(inputs[0].flatten(0, -2).square().mean(0))

    hooks = [layer.register_forward_pre_hook(partial(keep, name)) for name, layer in layers.items()]
    for text in texts:  # not all in one call: threads would share them, and sum up in any order
        model.encode_documents([text])
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(found).mean(0).sqrt() for name, found in squares.items() if found}


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
    """Tell whether a way works on this machine, and is not several times slower when it is awake."""
    try:
        model.encode_documents(texts)
        return _seconds(lambda: model.encode_documents(texts)) < limit
    except (RuntimeError, NotImplementedError):  # no kernel for it
        return False


def _seconds(call: Callable[[], Any]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def _smallest_cosine(exact: list[Tensor], found: list[Tensor]) -> float:
    return torch.cosine_similarity(torch.cat(exact), torch.cat(found).float(), dim=-1).min().item()
