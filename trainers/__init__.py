"""Alignment, losses and the trainers of the stages."""

from .adapters import AdaptersOffTeacher, LoraSettings, add_adapter, load_merged, push_adapter, use_adapter
from .alignment import align_tokens
from .arguments import (
    ContrastiveArguments,
    DistillationArguments,
    RelevanceDistillationArguments,
    RepresentationDistillationArguments,
)
from .losses import (
    aligned_token_mse,
    candidate_cross_entropy,
    english_anchor_mse,
    in_batch_cross_entropy,
    relevance_kl,
    transported_token_mse,
)
from .trainer import (
    ContrastiveTrainer,
    DistillationTrainer,
    RelevanceDistillationTrainer,
    RepresentationDistillationTrainer,
)
from .transport import transport_weights

__all__ = [
    "AdaptersOffTeacher",
    "ContrastiveArguments",
    "ContrastiveTrainer",
    "DistillationArguments",
    "DistillationTrainer",
    "LoraSettings",
    "RelevanceDistillationArguments",
    "RelevanceDistillationTrainer",
    "RepresentationDistillationArguments",
    "RepresentationDistillationTrainer",
    "add_adapter",
    "align_tokens",
    "aligned_token_mse",
    "candidate_cross_entropy",
    "english_anchor_mse",
    "in_batch_cross_entropy",
    "load_merged",
    "push_adapter",
    "relevance_kl",
    "transport_weights",
    "transported_token_mse",
    "use_adapter",
]
