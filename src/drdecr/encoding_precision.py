"""The bits that a collection is encoded in and kept in: as asked for, as its index was begun, or the fastest that is close."""

import logging
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from drdecr.data.documents import Document
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.fast_encoding import bfloat16_copy, fastest_encoder, int8_copy
from drdecr.retrieval.manifest import NAME, Manifest

from .encode import Splitting

logger = logging.getLogger(__name__)

FLOAT32, FASTEST = "float32", "fastest"
PRECISIONS = (FLOAT32, "bfloat16", "int8")
FLOAT16 = "float16"
KEPT_IN = (FLOAT16, "int8")
"""Codecs that a commit is written in as it comes. Residual codes learn centroids from each segment, which for 2,048 passages is
ten times the work of int8 on a processor while the model waits; and `compact`, which joins segments, would code them a second
time, with a loss. `drdecr index` makes them, from float16."""
SAMPLE = 32
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
            f"drdecr index {folder} SMALLER --codec residual2."
        )
    held = _held(folder, "codec", FLOAT16)
    if asked is not None and held not in (None, asked):
        raise ValueError(
            f"{folder}: begun with codec {held}, asked for {asked}. Leave --codec out to go on, or choose another folder."
        )
    return asked or held or FLOAT16


def _held(folder: Path, key: str, otherwise: str) -> str | None:
    """Return what an index remembers under a key, or what is not written down; None if there is no index."""
    if not (folder / NAME).is_file():
        return None
    return str(Manifest.read(folder).about.get(key, otherwise))


def sample_of(documents: Iterable[Document], splitting: Splitting, model: DrDecrModel) -> list[str]:
    """Return the texts of the first passages of a collection."""
    cut = (splitting.passages(document, model.processor) for document in documents)
    return [passage.reads for passage in islice(chain.from_iterable(cut), SAMPLE)]


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
