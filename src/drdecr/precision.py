"""A recipe's `auto` precision: measured once a run, the same in every process, and kept for when the run is resumed."""

import json
import logging
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from drdecr.trainers.precision import faster_precision

from .recipe import Recipe
from .run_folder import write_text

logger = logging.getLogger(__name__)

FILE = "precision.json"
"""In the run's folder: what was measured when it began, by the kind of device: `{"cpu": "float32"}`."""


def settled(recipe: Recipe, device: torch.device | str = "cpu") -> Recipe:
    """Return the recipe with what `auto` means on this machine in its place; every process must call it.

    Args:
        recipe: of the run. Its folder keeps the answer: a resumed run goes on in the precision that it began with on this
            kind of device; what an export measured on the CPU says nothing of a GPU.
        device: on which the run computes.
    """
    asked = {"precision": recipe.precision, "teacher_dtype": recipe.teacher_dtype}
    if "auto" not in asked.values():
        return recipe
    state = PartialState()
    found = [_measured(recipe, device) if state.is_main_process else None]
    broadcast_object_list(found)
    chosen: dict[str, Any] = {key: found[0] if value == "auto" else value for key, value in asked.items()}
    return replace(recipe, **chosen)


def _measured(recipe: Recipe, device: torch.device | str) -> str:
    file = recipe.folder / FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kind = torch.device(device).type
    if kind in known:
        return str(known[kind])
    found = faster_precision(device)
    logger.info("Computing in %s, the faster one on this machine.", found)
    write_text(file, json.dumps({**known, kind: found}) + "\n")
    return found
