"""The paper's stages as trainers: a `DistillationTrainer` each, with the stage's own settings as default."""

from .arguments import ContrastiveArguments, RelevanceDistillationArguments, RepresentationDistillationArguments
from .distillation import DistillationTrainer


class ContrastiveTrainer(DistillationTrainer):
    """Stages A and B: learn from labelled question-passage pairs. Arguments as in `DistillationTrainer`."""

    arguments_class = ContrastiveArguments


class RepresentationDistillationTrainer(DistillationTrainer):
    """Stage C: learn the teacher's tokens from parallel text. Arguments as in `DistillationTrainer`."""

    arguments_class = RepresentationDistillationArguments


class RelevanceDistillationTrainer(DistillationTrainer):
    """Stage D: learn the teacher's scores over candidates. Arguments as in `DistillationTrainer`."""

    arguments_class = RelevanceDistillationArguments
