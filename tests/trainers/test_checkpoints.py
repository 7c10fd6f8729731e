"""What a training resumes from: the newest whole checkpoint, whose state survives the way through safetensors."""

import json
import random

import numpy as np
import pytest
import torch
from transformers.trainer_pt_utils import safe_globals

from drdecr.trainers import DistillationTrainer
from drdecr.trainers.checkpoints import find_damage, newest_whole_checkpoint, pack_state, unpack_state


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


@pytest.fixture
def checkpoints(tmp_path, tiny_model, candidate_rows, collate, build):
    """The folder of a training's checkpoints of steps 1 and 2, whole; of step 2 all files are there."""
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "contrastive_weight": 1.0}
    build(DistillationTrainer, tiny_model, candidate_rows, collate, **settings).train()
    return tmp_path / "run"


def test_the_newest_whole_checkpoint_is_resumed_and_the_damaged_one_named(checkpoints, caplog):
    folder = checkpoints / "checkpoint-2"
    names = ("model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    cases = [(name, damage) for name in names for damage in ("missing", "cut", "empty")]
    for name, damage in [*cases, ("optimizer.pt", "flipped")]:
        assert newest_whole_checkpoint(checkpoints) == str(folder)
        content = (folder / name).read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        (folder / name).unlink()
        if damage != "missing":
            (folder / name).write_bytes({"cut": content[:middle], "empty": b"", "flipped": flipped}[damage])
        expected = f"{name} is {'missing' if damage == 'missing' else 'damaged or cut off'}"
        assert newest_whole_checkpoint(checkpoints) == str(checkpoints / "checkpoint-1"), (name, damage)
        assert f"checkpoint-2 is left out: {expected}" in caplog.text
        assert find_damage(folder) == expected
        caplog.clear()
        (folder / name).write_bytes(content)


def test_random_states_of_every_process_and_shards_of_weights_are_looked_for(checkpoints):
    folder = checkpoints / "checkpoint-2"
    assert find_damage(folder, processes=1) is None
    assert find_damage(folder, processes=2) == "rng_state_0.pth is missing"
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    assert find_damage(folder) is None
    assert find_damage(folder, processes=2) == "rng_state_1.pth is missing"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_damage(folder) == "model-00002-of-00002.safetensors is damaged or cut off"


def test_what_was_pushed_or_saved_without_its_state_is_whole_without_pickles(checkpoints):
    folder = checkpoints / "checkpoint-2"
    pack_state(folder)
    assert find_damage(folder, processes=1) is None
    for name in ("optimizer", "scheduler", "rng_state"):
        (folder / f"{name}.safetensors").unlink()
    assert find_damage(folder) == "optimizer.pt is missing"
    assert find_damage(folder, has_state=False) is None


def test_a_trainer_goes_on_from_the_newest_whole_checkpoint(checkpoints, tiny_model, candidate_rows, collate, build):
    settings = {"save_strategy": "no", "max_steps": 2, "contrastive_weight": 1.0}
    trainer = build(DistillationTrainer, tiny_model, candidate_rows, collate, **settings)
    (checkpoints / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2: optimizer.pt is missing. Delete it and resume"):
        trainer.train(resume_from_checkpoint=checkpoints / "checkpoint-2")
    steps = []
    trainer.training_step = lambda *arguments, inner=trainer.training_step: steps.append(1) or inner(*arguments)
    trainer.train(resume_from_checkpoint=True)
    assert len(steps) == 1
    (checkpoints / "checkpoint-1" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"expected a whole checkpoint in .*, got none"):
        trainer.train(resume_from_checkpoint=True)
