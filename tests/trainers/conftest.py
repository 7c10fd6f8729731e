"""Rows of nonsense sentences, a teacher, and a way to train a few steps: what the tests of the trainers share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from drdecr.data.collators import DistillationCollator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.trainers import DistillationTrainer

TRAINER_ARGUMENTS = (
    *("teacher", "evaluator", "passages", "processing_class", "peft_config"),
    *("eval_dataset", "callbacks", "compute_metrics"),
)
WORDS = ["the", "of", "is", "in", "a", "what", "where", "capital", "city", "river", "sea", "king", "paris", "france"]


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of 2 to 7 words, so that batches are padded."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(2, 8))) for _ in range(count)]


@pytest.fixture
def passages() -> dict[str, str]:
    return {f"p{number}": text for number, text in enumerate(sentences(10, seed=1))}


@pytest.fixture
def parallel_rows() -> list[dict[str, Any]]:
    return [{"query": q, "english": e} for q, e in zip(sentences(24, seed=2), sentences(24, seed=3), strict=True)]


@pytest.fixture
def candidate_rows(passages: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of a question, its English translation and three candidates."""
    generator = np.random.default_rng(4)
    texts = zip(sentences(24, seed=5), sentences(24, seed=6), strict=True)
    names = list(passages)
    return [
        {"query": query, "english": english, "document_ids": generator.choice(names, 3, replace=False).tolist()}
        for query, english in texts
    ]


@pytest.fixture
def teacher(tiny_model: DrDecrModel) -> DrDecrTeacher:
    """A teacher of the student's size with other weights, drawn wider so that its scores differ."""
    torch.manual_seed(7)
    model = DrDecrTeacher(tiny_model.config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.processor = tiny_model.processor
    return model


@pytest.fixture
def still_model(tiny_model: DrDecrModel) -> DrDecrModel:
    """The student without dropout: two routes to one result can be compared."""
    for module in tiny_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return tiny_model


@pytest.fixture
def collate(tiny_processor: DrDecrProcessor, passages: dict[str, str]) -> DistillationCollator:
    return DistillationCollator(tiny_processor, passages=passages, anchor=True)


@pytest.fixture
def folder(
    tiny_model: DrDecrModel,
    teacher: DrDecrTeacher,
    passages: dict[str, str],
    parallel_rows: list[dict[str, Any]],
    candidate_rows: list[dict[str, Any]],
    tmp_path: Path,
) -> Path:
    """A folder with what launched scripts train on: `student`, `teacher` and `rows.json`."""
    tiny_model.save_pretrained(tmp_path / "student")
    teacher.save_pretrained(tmp_path / "teacher")
    rows = {"passages": passages, "parallel": parallel_rows, "candidates": candidate_rows}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., DistillationTrainer]:
    """Build a trainer with settings for a few quick steps on the CPU."""

    def build_trainer(
        trainer_class: type[DistillationTrainer], model: Any, rows: Any, collator: Any = None, **settings: Any
    ) -> DistillationTrainer:
        passed = {name: settings.pop(name) for name in TRAINER_ARGUMENTS if name in settings}
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "max_steps": 3,
            "learning_rate": 1e-3,
            "logging_steps": 1,
        }
        args = trainer_class.arguments_class(**{**defaults, **settings})
        return trainer_class(model, args, train_dataset=rows, data_collator=collator, **passed)

    return build_trainer
