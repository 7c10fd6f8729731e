"""Checkpoints that a training goes on from: what makes one whole, which is the newest, and its state without pickles."""

import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.trainer_pt_utils import safe_globals

logger = logging.getLogger(__name__)

SHARED_OUT = ("pytorch_model_fsdp_*", "global_step*")
"""What FSDP and DeepSpeed write in the place of weights and optimizer."""


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the Trainer's checkpoints, the newest first; what else lies there is not ours."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(paths, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def newest_whole_checkpoint(folder: Path, processes: int = 0, has_state: bool = True) -> str | None:
    """Return the newest checkpoint that a training can go on from; those that are damaged are named, with the cure.

    Args:
        folder: of the checkpoints.
        processes: how many wrote their random states; 0 (default) if that is not known.
        has_state: whether optimizer, schedule and random states were saved too (default True).
    """
    for checkpoint in checkpoints_of(folder):
        damage = find_damage(checkpoint, processes, has_state)
        if damage is None:
            return str(checkpoint)
        logger.warning(f"{checkpoint} is left out: {damage}. The newest whole one before it is taken; delete this one.")
    return None


def find_damage(checkpoint: Path, processes: int = 0, has_state: bool = True) -> str | None:
    """Say what a checkpoint lacks to be resumed from; None if it is whole. Arguments as for `newest_whole_checkpoint`.

    Sizes and checksums are looked at, as far as the formats have any: safetensors has none of the weights' bytes.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    needed = [["trainer_state.json"], ["config.json", "adapter_config.json"]]
    if not any(next(checkpoint.glob(pattern), None) for pattern in SHARED_OUT):
        needed.append(
            [f"{name}.safetensors{end}" for name in ("model", "adapter_model") for end in ("", ".index.json")]
        )
        needed += [[f"{name}.pt", f"{name}.safetensors"] for name in ("optimizer", "scheduler") if has_state]
    if has_state:  # the process of each random state may have been killed by itself
        several = [f"rng_state_{number}" for number in range(processes)]
        stems = several if processes > 1 else ["rng_state"] if processes else ["rng_state", "rng_state_0"]
        choices = [[stem] for stem in stems] if processes else [stems]
        needed += [[f"{stem}{end}" for stem in choice for end in (".pth", ".safetensors")] for choice in choices]
    for names in needed:
        if not any((checkpoint / name).exists() for name in names):
            return f"{names[0]} is missing"
    damaged = (path.name for path in _files(checkpoint) if not _is_readable(path))
    name = next(damaged, None)
    return None if name is None else f"{name} is damaged or cut off"


def _files(checkpoint: Path) -> Iterator[Path]:
    """Go through the files that a training resumes from, the shards of weights among them."""
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in (".json", ".safetensors") or path.name.startswith(STATE_FILES):
            yield path
        if path.name.endswith(".safetensors.index.json") and _is_readable(path):
            names = json.loads(path.read_text(encoding="utf-8")).get("weight_map", {})
            yield from (checkpoint / name for name in sorted(set(names.values())) if not (checkpoint / name).exists())


def _is_readable(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):  # compares the header with the size
                pass
        elif path.is_file():
            with zipfile.ZipFile(path) as stored:  # as torch writes
                return stored.testzip() is None
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True


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
            metadata = {"structure": json.dumps(_describe(state, tensors)), "suffix": path.suffix}
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
                state = _rebuild(json.loads(metadata["structure"]), stored)
                unfinished = target.with_name(f".{target.name}.unfinished")
                torch.save(state, unfinished)
                unfinished.replace(target)


def _describe(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value in JSON's terms, `[kind, content]`, its tensors moved into `tensors`."""
    if isinstance(value, PLAIN):
        return ["plain", value]
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        tensors[name] = torch.as_tensor(value).contiguous().clone()  # a clone: views of one storage are refused
        return ["tensor" if isinstance(value, Tensor) else "array", name]
    if isinstance(value, dict):
        return ["dict", [[_describe(key, tensors), _describe(item, tensors)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_describe(item, tensors) for item in value]]
    raise ValueError(
        f"Expected a training's state of tensors and plain values, got {type(value).__name__}. Push without it: "
        "hub_strategy='every_save'."
    )


def _rebuild(structure: Any, stored: Any) -> Any:
    kind, content = structure
    if kind in ("tensor", "array"):
        tensor = stored.get_tensor(content)
        return tensor if kind == "tensor" else tensor.numpy()
    if kind == "dict":
        return {_rebuild(key, stored): _rebuild(item, stored) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_rebuild(item, stored) for item in content]
        return items if kind == "list" else tuple(items)
    return content
