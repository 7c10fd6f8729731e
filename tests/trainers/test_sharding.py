"""A model that FSDP2 shares out over processes learns what a whole one does, and is saved as one."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch import Tensor
from transformers import XLMRobertaConfig

from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings.cache import TokenCache
from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrTeacher
from drdecr.modeling_drdecr.modeling_drdecr import DrDecrOutput
from drdecr.trainers import ContrastiveTrainer, DistillationTrainer
from drdecr.trainers.checks import layer_classes

SHARDING = Path(__file__).with_name("launched_sharding.py")
CONFIGURATION = Path(str(files("drdecr.recipes"))) / "accelerate" / "fsdp2.yaml"
TERMS: dict[str, Any] = {"contrastive_weight": 0.5, "in_batch_weight": 0.5, "token_weight": 1.0}


def launch_environment() -> dict[str, str]:
    """Return what `accelerate launch` says about FSDP in the environment of the processes that it starts."""
    words = ["--config_file", str(CONFIGURATION), "script.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return {name: value for name, value in prepare_multi_gpu_env(arguments).items() if name.startswith("FSDP_")}


def weights(folder: Path) -> dict[str, Tensor]:
    return DrDecrModel.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("relevance_over", ["row", "batch"])
def test_cached_passages_meet_questions_of_another_precision_than_the_parameters(
    relevance_over: str,
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    candidate_rows: list[dict[str, Any]],
    passages: dict[str, str],
    build: Callable[..., DistillationTrainer],
):
    cache = TokenCache.of_documents(teacher, passages)
    collate = DistillationCollator(still_model.processor, passages=passages, document_cache=cache)
    settings = {"relevance_weight": 1.0, "relevance_over": relevance_over, **TERMS}
    trainer = build(DistillationTrainer, still_model, candidate_rows, collate, teacher=teacher, **settings)
    batch = collate(candidate_rows[:4])
    expected = trainer.compute_loss(still_model, batch).item()

    def rounded(_module: Any, _inputs: Any, output: DrDecrOutput) -> DrDecrOutput:
        """Give what FSDP2 gives in mixed precision: bfloat16 of a module whose parameters are float32."""
        output.embeddings = output.embeddings.to(torch.bfloat16)
        return output

    still_model.register_forward_hook(rounded)
    loss = trainer.compute_loss(still_model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.02)
    assert still_model.linear.weight.grad is not None


def test_the_layers_of_any_encoder_are_shared_out_each_by_itself(tiny_model: DrDecrModel):
    assert layer_classes(tiny_model) == ["BertLayer"]
    xlmr = XLMRobertaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    assert layer_classes(DrDecrModel(DrDecrConfig(encoder_config=xlmr, embedding_dim=8))) == ["XLMRobertaLayer"]


@pytest.mark.parametrize("named", [None, ["XLMRobertaLayer"]])
def test_the_trainer_tells_fsdp_the_layers_that_no_configuration_names(
    named: list[str] | None, tiny_model: DrDecrModel, build: Callable[..., DistillationTrainer], under_fsdp: Any
):
    under_fsdp.transformer_cls_names_to_wrap = named
    build(ContrastiveTrainer, tiny_model, [], None)
    assert under_fsdp.transformer_cls_names_to_wrap == (named or ["BertLayer"])


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_model_that_fsdp_shares_out_learns_and_is_saved_as_a_whole_one(folder: Path, run_python: Callable[..., Any]):
    run_python(SHARDING, folder, 2, processes=2, env=launch_environment())
    shared = json.loads((folder / "shared.json").read_text())
    assert {"", "bert.encoder.layer.0", "bert.encoder.layer.1"} <= set(shared)  # layers of a class that no file names
    start = weights(folder / "student")
    for name, tolerance in (("float32", 1e-6), ("bfloat16", 0.2)):
        ours, expected = weights(folder / name), weights(folder / f"{name}-whole")
        away, moved = (
            torch.cat([(one[key] - other[key]).flatten() for key in start]).norm()
            for one, other in ((ours, expected), (expected, start))
        )
        assert away < tolerance * moved, name
        assert (ours["linear.weight"] - start["linear.weight"]).abs().max() > 1e-3
        # FSDP2's own class and code do not get into the folder.
        found = [{path.name for path in (folder / saved).iterdir()} for saved in (name, f"{name}-whole")]
        assert found[0] == found[1]
        config = json.loads((folder / name / "config.5.17.0.json").read_text())
        assert config["auto_map"]["AutoModel"] == "modeling_drdecr.DrDecrModel"
