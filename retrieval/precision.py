"""The numbers that an index is encoded and stored in: copies of a model in bfloat16 and int8, and which of them is fastest."""

import copy
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from drdecr.modeling_drdecr import DrDecrModel

from .int8_linear import Int8Linear
from .passages import Document, Splitter
from .stored.manifest import MANIFEST_NAME, Manifest

FLOAT32, FASTEST, FLOAT16 = "float32", "fastest", "float16"
PRECISIONS = (FLOAT32, "bfloat16", "int8")
BUILD_CODECS = (FLOAT16, "int8")
"""Codecs that a commit is written in as it comes. Residual codes learn centroids from each segment, which for 2,048 passages is
ten times the work of int8 on a processor while the model waits; and `compact`, which joins segments, would code them a second
time, with a loss. `drdecr index compress` makes them, from float16."""
SAMPLE_PASSAGES = 32
"""Passages that are measured with, and that show int8 how large each channel is."""
CHANNEL_SAMPLE = 16
"""Passages that show the sizes of channels."""
SMALLEST_COSINE = 0.995
"""What a token of a faster model must have in common with the float32 one, at least."""
CLEARLY_FASTER = 1.1
"""How many times as fast fewer bits must be to be worth their rounding."""
MOST_SLOWER = 3
"""How many times as long the first passage may take in fewer bits, before the others are tried."""

logger = logging.getLogger(__name__)


def resolve_precision(requested: str | None, folder: Path) -> str:
    """Return what a folder is encoded in: one of `PRECISIONS`, or `fastest` where that is still to be measured.

    Args:
        requested: one of these; None: as the index was begun, or float32.
        folder: of an index, perhaps not there yet.

    Raises:
        ValueError: for another word, or another precision than the index has.
    """
    if requested not in (None, FASTEST, *PRECISIONS):
        raise ValueError(f"precision: expected {', '.join(PRECISIONS)} or {FASTEST}, got {requested!r}.")
    if not (folder / MANIFEST_NAME).is_file():
        return requested or FLOAT32
    begun = Manifest.read(folder).precision
    if requested not in (None, FASTEST, begun):
        raise ValueError(
            f"{folder}: encoded in {begun}, asked for {requested}. Leave --precision out to go on, or choose another folder."
        )
    return begun


def resolve_codec(requested: str | None, folder: Path) -> str:
    """Return how a folder stores its vectors, one of `BUILD_CODECS`.

    Args:
        requested: one of these; None: as the index was begun, or float16.
        folder: of an index, perhaps not there yet.

    Raises:
        ValueError: for another word, or another codec than the index was begun with.
    """
    if requested not in (None, *BUILD_CODECS):
        raise ValueError(
            f"codec: expected {' or '.join(BUILD_CODECS)}, got {requested!r}. For residual codes encode into float16, then give: "
            f"drdecr index compress {folder} SMALLER --codec residual2."
        )
    begun = Manifest.read(folder).codec if (folder / MANIFEST_NAME).is_file() else None
    if (
        begun not in BUILD_CODECS
    ):  # a new one, or one that `drdecr index compress` made, which is refused where it is opened
        return requested or FLOAT16
    if requested not in (None, begun):
        raise ValueError(
            f"{folder}: begun with codec {begun}, asked for {requested}. Leave --codec out to go on, or choose another folder."
        )
    return begun


def first_passages(documents: Iterable[Document], splitter: Splitter, model: DrDecrModel) -> list[str]:
    """Return the texts of the first passages of a collection, to measure with."""
    passages = chain.from_iterable(splitter.passages(document, model.processor) for document in documents)
    return [passage.reads for passage in islice(passages, SAMPLE_PASSAGES)]


def encoder_in(precision: str, model: DrDecrModel, texts: list[str]) -> tuple[DrDecrModel, str]:
    """Return a model that encodes in a precision, and the precision.

    Args:
        precision: as of `resolve_precision`; `fastest` is measured now.
        model: in float32, with its processor.
        texts: of `first_passages`.

    Raises:
        ValueError: for int8 on an accelerator, or where torch has no products in int8.
    """
    if precision == FLOAT32:
        return model, precision
    if precision == "bfloat16":
        return bfloat16_copy(model), precision
    if model.device.type != "cpu":
        raise ValueError(f"precision {precision}: expected a model on a CPU, got {model.device.type}. Take bfloat16.")
    if precision == FASTEST:
        choice = fastest_encoder(model, texts)
        for name, seconds in choice.seconds.items():
            if seconds is not None:  # else it does not run on this machine
                logger.info("%s: %.2f s, smallest token cosine %.4f", name, seconds, choice.cosines[name])
        logger.info("Encoding in %s.", choice.name)
        return choice.model, choice.name
    try:
        return int8_copy(model, texts), precision
    except RuntimeError as error:
        raise ValueError(
            f"precision int8: torch has no such products on this machine ({error}). Take float32."
        ) from error


def bfloat16_copy(model: DrDecrModel) -> DrDecrModel:
    """Return a copy in bfloat16."""
    narrow: Any = copy.deepcopy(model)
    return narrow.to(torch.bfloat16).eval()


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
    sizes = _channel_sizes(narrow, layers, texts[:CHANNEL_SAMPLE]) if texts else {}
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(narrow.encoder.get_submodule(parent), attribute, Int8Linear(layer, sizes.get(name)))
    return narrow


def _channel_sizes(model: DrDecrModel, layers: dict[str, nn.Linear], texts: list[str]) -> dict[str, Tensor]:
    """Return the root mean square of every input channel of the layers, by name, over the tokens of some texts."""
    squares: dict[str, list[Tensor]] = {name: [] for name in layers}

    def add_squares(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        squares[name].append(inputs[0].flatten(0, -2).square().mean(0))

    hooks = [layer.register_forward_pre_hook(partial(add_squares, name)) for name, layer in layers.items()]
    for text in texts:  # not all in one call: threads would share them, and sum up in any order
        model.encode_documents([text])
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(of_texts).mean(0).sqrt() for name, of_texts in squares.items() if of_texts}


@dataclass(frozen=True)
class EncoderChoice:
    """What was measured, and the model that is fastest.

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


def fastest_encoder(
    model: DrDecrModel, texts: list[str], smallest_cosine: float = SMALLEST_COSINE, repeats: int = 3
) -> EncoderChoice:
    """Encode some passages in float32, bfloat16 and int8, in turn, and choose.

    Which is faster depends on the CPU: bfloat16 halves the time where it is an instruction and takes many times as long where
    it is emulated; the first passage tells.

    Args:
        model: in float32, on a CPU.
        texts: a sample of what will be encoded, some tens of passages.
        smallest_cosine: of a faster model's tokens with the float32 ones (default 0.995).
        repeats: rounds, of which the quickest counts (default 3).

    Returns:
        The choice; its model is `model` itself where nothing is clearly faster.

    Raises:
        ValueError: without texts.
    """
    if not texts:
        raise ValueError("fastest_encoder measures on a sample of passages, got none. Give some of those to encode.")
    models: dict[str, DrDecrModel] = {FLOAT32: model, "bfloat16": bfloat16_copy(model)}
    rounds: dict[str, list[float]] = {FLOAT32: []}
    cosines = {FLOAT32: 1.0}
    with suppress(RuntimeError):  # a build of torch without int8 products
        models["int8"] = int8_copy(model, texts)
    exact = torch.cat(model.encode_documents(texts, show_progress_bar=False))
    limit = MOST_SLOWER * _seconds(lambda: model.encode_documents(texts[:1]))
    for name in ("bfloat16", "int8"):
        rounds[name] = []
        if name in models and _runs(models[name], texts[:1], limit):
            tokens = torch.cat(models[name].encode_documents(texts, show_progress_bar=False)).float()
            cosines[name] = torch.cosine_similarity(exact, tokens, dim=-1).min().item()
    for _ in range(repeats):
        for name in cosines:
            rounds[name].append(_seconds(partial(models[name].encode_documents, texts, show_progress_bar=False)))
    seconds = {name: min(times, default=None) for name, times in rounds.items()}
    name = choose(seconds, cosines, smallest_cosine)
    return EncoderChoice(name, models[name], seconds, cosines)


def choose(seconds: dict[str, float | None], cosines: dict[str, float], smallest_cosine: float) -> str:
    """Return the fastest of those that stay close enough; `float32` unless another is clearly faster."""
    base = seconds[FLOAT32] or 0.0
    allowed = {
        name: time
        for name, time in seconds.items()
        if time is not None and cosines[name] >= smallest_cosine and base > CLEARLY_FASTER * time
    }
    return min(allowed, key=lambda name: allowed[name], default=FLOAT32)


def _runs(model: DrDecrModel, texts: list[str], limit: float) -> bool:
    """Tell whether a model works on this machine, and is not several times slower when it is awake."""
    try:
        model.encode_documents(texts)
        return _seconds(lambda: model.encode_documents(texts)) < limit
    except (RuntimeError, NotImplementedError):  # no kernel for it
        return False


def _seconds(call: Callable[[], Any]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started
