"""Alignment, losses and the trainers of the stages."""

from .alignment import align_tokens
from .arguments import (
    ContrastiveArguments,
    DistillationArguments,
    RelevanceDistillationArguments,
    RepresentationDistillationArguments,
)
from .distillation import DistillationTrainer
from .losses import (
    aligned_token_mse,
    candidate_cross_entropy,
    english_anchor_mse,
    in_batch_cross_entropy,
    relevance_kl,
)
from .stages import ContrastiveTrainer, RelevanceDistillationTrainer, RepresentationDistillationTrainer

__all__ = [
    "ContrastiveArguments",
    "ContrastiveTrainer",
    "DistillationArguments",
    "DistillationTrainer",
    "RelevanceDistillationArguments",
    "RelevanceDistillationTrainer",
    "RepresentationDistillationArguments",
    "RepresentationDistillationTrainer",
    "align_tokens",
    "aligned_token_mse",
    "candidate_cross_entropy",
    "english_anchor_mse",
    "in_batch_cross_entropy",
    "relevance_kl",
]
