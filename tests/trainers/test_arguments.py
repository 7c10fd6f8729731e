"""Settings: the paper's numbers are the defaults, and what cannot be learnt from is refused."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser, TrainingArguments

from drdecr.trainers import (
    ContrastiveArguments,
    DistillationArguments,
    RelevanceDistillationArguments,
    RepresentationDistillationArguments,
)
from drdecr.trainers.arguments import warn_of_idle_gpus

STAGES = (ContrastiveArguments, RepresentationDistillationArguments, RelevanceDistillationArguments)


@pytest.mark.parametrize(
    ("stage", "terms", "learning_rate", "max_steps"),
    [
        (ContrastiveArguments, {"contrastive": 1.0}, 6e-6, 74_704),
        (RepresentationDistillationArguments, {"aligned_tokens": 0.5, "english_anchor": 0.5}, 4.8e-5, 84_897),
        (RelevanceDistillationArguments, {"relevance_kl": 1.0}, 6e-6, 87_618),
    ],
)
def test_a_stage_without_settings_is_the_papers(
    stage: type[DistillationArguments], terms: dict, learning_rate: float, max_steps: int, tmp_path: Path
):
    args = stage(output_dir=str(tmp_path), use_cpu=True)
    assert (args.term_weights, args.learning_rate, args.max_steps) == (terms, learning_rate, max_steps)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 192
    assert (args.temperature, args.alignment, args.max_grad_norm, args.seed) == (2.0, "greedy", 2.0, 12345)
    assert (args.lr_scheduler_type, args.warmup_steps, args.weight_decay) == ("constant", 0, 0.0)


def test_a_run_may_mix_all_terms(tmp_path: Path):
    settings = ("relevance_weight", "token_weight", "anchor_weight", "contrastive_weight", "in_batch_weight")
    args = DistillationArguments(output_dir=str(tmp_path), use_cpu=True, **dict.fromkeys(settings, 0.2))
    terms = ("relevance_kl", "aligned_tokens", "english_anchor", "contrastive", "in_batch_contrastive")
    assert args.term_weights == dict.fromkeys(terms, 0.2)


def test_settings_can_be_given_on_the_command_line(tmp_path: Path):
    words = f"--output_dir {tmp_path} --use_cpu --temperature 0.5 --score_scale 20 --alignment optimal --max_steps 3"
    (args,) = HfArgumentParser(RelevanceDistillationArguments).parse_args_into_dataclasses(words.split())
    assert (args.temperature, args.score_scale, args.alignment, args.max_steps) == (0.5, 20.0, "optimal", 3)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_weight": -0.5}, "must not be negative, got token_weight=-0.5"),
        ({"token_weight": float("nan")}, "must not be negative, got token_weight=nan"),
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        ({"contrastive_temperature": -1.0}, "contrastive_temperature: expected a positive number"),
        ({"score_scale": 0.0}, "score_scale: expected a positive number"),
        ({"projection_learning_rate": -1e-3}, "projection_learning_rate: expected a positive number"),
        ({"alignment": "best"}, "alignment: expected one of greedy, optimal, argmax, sinkhorn, got 'best'"),
        ({"encode_mini_batch_size": 0}, "encode_mini_batch_size: expected at least 1, got 0"),
        ({"forward_passes": 0}, "forward_passes: expected at least 1, got 0"),
        ({"alignment_temperature": 0.01}, "alignment_temperature: expected at least 0.03, got 0.01"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    stage: type[DistillationArguments], settings: dict, message: str, tmp_path: Path
):
    with pytest.raises(ValueError, match=message):
        stage(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_a_run_without_any_term_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="No loss term has a weight"):
        DistillationArguments(output_dir=str(tmp_path), use_cpu=True)


def test_epochs_that_are_named_alone_stand_above_the_papers_steps(tmp_path: Path):
    for keys, expected in (
        ({"num_train_epochs": 2}, (-1, 2)),
        ({"num_train_epochs": 2, "max_steps": 5}, (5, 2)),
        ({}, (74_704, 3)),
    ):
        args = ContrastiveArguments(output_dir=str(tmp_path), use_cpu=True, **keys)
        assert (args.max_steps, args.num_train_epochs) == expected


def test_a_step_has_the_rows_that_the_settings_say_on_several_gpus(tmp_path: Path, monkeypatch, caplog):
    args = ContrastiveArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 8))
    assert (args.n_gpu, args.train_batch_size) == (1, 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    warn_of_idle_gpus(args)
    assert caplog.messages == []  # on the CPU, as it was told
    args.use_cpu = False
    warn_of_idle_gpus(args)
    assert "Training on one of 8 GPUs. `accelerate launch" in caplog.text
