"""What a training resumes from survives the way through safetensors, and nothing else is taken."""

import random

import numpy as np
import pytest
import torch
from transformers.trainer_pt_utils import safe_globals

from drdecr.trainers.hub import pack_state, unpack_state


def states():
    """What the Trainer writes, made without it."""
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.full((3, 2), 0.5)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    randomness = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    return {
        "optimizer.pt": optimizer.state_dict(),
        "scheduler.pt": schedule.state_dict(),
        "rng_state.pth": randomness,
        "rng_state_1.pth": {**randomness, "cuda": [torch.arange(4, dtype=torch.uint8)]},
        "scaler.pt": {"scale": 65536.0, "growth_interval": 2000, "_growth_tracker": 0},
    }


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor | np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and bool((one == other).all())
    return type(one) is type(other) and one == other


def test_the_state_comes_back_as_it_was(tmp_path):
    for name, state in states().items():
        torch.save(state, tmp_path / name)
    (tmp_path / "model.safetensors").write_bytes(b"not ours")
    pack_state(tmp_path)
    stems = {name.partition(".")[0] for name in states()}
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.safetensors" for stem in (*stems, "model")}
    unpack_state(tmp_path)
    for name, state in states().items():
        with safe_globals():  # as the Trainer reads it
            assert same(torch.load(tmp_path / name, weights_only=True), state), name


def test_a_state_that_is_there_stays(tmp_path):
    torch.save({"mine": 1}, tmp_path / "optimizer.pt")
    pack_state(tmp_path)
    torch.save({"mine": 2}, tmp_path / "optimizer.pt")
    unpack_state(tmp_path)
    assert torch.load(tmp_path / "optimizer.pt") == {"mine": 2}


def test_anything_but_data_is_refused(tmp_path):
    torch.save({"set": {1, 2}}, tmp_path / "optimizer.pt")
    with pytest.raises(ValueError, match=r"got set\. Push without it: hub_strategy='every_save'"):
        pack_state(tmp_path)
