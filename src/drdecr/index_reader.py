"""The model that reads questions for an index: the one that encoded it, or one that is named, compared by its digest."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drdecr.data.digests import model_digest
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.hub_errors_drdecr import HubError, explain

from .measuring import load_reader

logger = logging.getLogger(__name__)


def load_index_reader(
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
        reader = load_reader(name)
    except (OSError, ValueError) as error:
        if model is not None:
            raise
        # A folder's name is kept as it was given: from another folder, or after a move, it is the name of nothing.
        told = (
            f"{source}: encoded by {name}, which cannot be loaded from here. If it lies elsewhere, name it: --model. "
        )
        if (of_hub := explain(error)) is not None:
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
