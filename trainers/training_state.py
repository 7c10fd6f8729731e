"""The state that a training resumes from, as safetensors: what is pushed holds no pickle.

The Trainer keeps optimizer, scheduler, gradient scaler and random states as pickles. `pack_state` turns each into a
safetensors file: its tensors, and the structure around them as JSON in the metadata. `unpack_state` goes back.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.trainer_pt_utils import safe_globals

STATE_FILES = ("optimizer", "scheduler", "scaler", "rng_state")
"""How the names of the files begin."""

PLAIN = (type(None), bool, int, float, str)


def pack_state(folder: Path) -> None:
    """Replace the state's pickles in a checkpoint's folder by safetensors files of the same names.

    Raises:
        ValueError: for a state that holds anything but tensors, arrays, lists, dictionaries and plain values.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith(STATE_FILES) and path.suffix in (".pt", ".pth"):
            with safe_globals():
                state = torch.load(path, map_location="cpu", weights_only=True)
            tensors: dict[str, Tensor] = {}
            metadata = {"structure": json.dumps(_structure(state, tensors)), "suffix": path.suffix}
            save_file(tensors, path.with_suffix(".safetensors"), metadata=metadata)
            path.unlink()


def unpack_state(folder: Path) -> None:
    """Write the pickles that the Trainer resumes from beside a pushed checkpoint's state, where they are missing."""
    for path in sorted(folder.glob("*.safetensors")):
        if not path.name.startswith(STATE_FILES):
            continue
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            target = path.with_suffix(metadata["suffix"])
            if not target.exists():
                state = _rebuilt(json.loads(metadata["structure"]), stored)
                unfinished = target.with_name(f".{target.name}.unfinished")
                torch.save(state, unfinished)
                unfinished.replace(target)


def _structure(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value in JSON's terms, `[kind, content]`, its tensors moved into `tensors`."""
    if isinstance(value, PLAIN):
        return ["plain", value]
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        tensors[name] = torch.as_tensor(value).contiguous().clone()  # a clone: views of one storage are refused
        return ["tensor" if isinstance(value, Tensor) else "array", name]
    if isinstance(value, dict):
        return ["dict", [[_structure(key, tensors), _structure(item, tensors)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_structure(item, tensors) for item in value]]
    raise ValueError(
        f"Expected a training's state of tensors and plain values, got {type(value).__name__}. Push without it: "
        "hub_strategy='every_save'."
    )


def _rebuilt(structure: Any, stored: Any) -> Any:
    kind, content = structure
    if kind in ("tensor", "array"):
        tensor = stored.get_tensor(content)
        return tensor if kind == "tensor" else tensor.numpy()
    if kind == "dict":
        return {_rebuilt(key, stored): _rebuilt(item, stored) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_rebuilt(item, stored) for item in content]
        return items if kind == "list" else tuple(items)
    return content
