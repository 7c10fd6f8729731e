"""What the loss does not say: how far the student is from its teacher, and whether the teacher says anything at all."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .alignment import UNALIGNED

SATURATED, FLAT = 0.02, 0.98
"""Bounds of the teacher's relative entropy, beyond which its softmax teaches little (this project's)."""

APART = 0.3
"""Mean cosine of matched tokens below which two models share no space (this project's): pairs by chance come near it."""

FIGURES = (
    *("mean_matched_cosine", "share_unaligned_tokens"),
    *("student_score_spread", "teacher_score_spread", "teacher_relative_entropy", "top_candidate_agreement"),
)
"""What is logged beside the terms."""


class Records:
    """Running means of named figures, for training and evaluation apart."""

    def __init__(self) -> None:
        self._sums: dict[bool, dict[str, list[Any]]] = {True: {}, False: {}}

    def add(self, figures: dict[str, Tensor], training: bool, num_rows: int) -> None:
        """Add one batch's figures, each a detached scalar tensor, the mean of its rows.

        An evaluation is a mean over rows. In training each batch has one voice, as in the steps: so the terms add up to the
        logged loss also behind a last batch of few rows.
        """
        weight = 1 if training else num_rows
        for name, value in figures.items():
            entry = self._sums[training].setdefault(name, [0.0, 0])
            entry[0] = entry[0] + weight * value
            entry[1] += weight

    def means(self, accelerator: Any, training: bool) -> dict[str, float]:
        """Return the means over all processes since the last call, and start anew."""
        records, self._sums[training] = self._sums[training], {}
        if accelerator.num_processes > 1:
            # Processes may have met different terms, so the names are agreed on first.
            from accelerate.utils import gather_object

            names = sorted(set(gather_object(sorted(records))))
        else:
            names = sorted(records)
        if not names:
            return {}
        # float() first: a sum lives on the device, a count does not, and they cannot be stacked.
        rows = torch.tensor([[float(part) for part in records.get(name, (0.0, 0))] for name in names])
        totals = accelerator.reduce(rows.to(accelerator.device), reduction="sum")
        return {name: (total / count).item() for name, (total, count) in zip(names, totals, strict=True)}


def of_alignment(student: Tensor, teacher: Tensor, alignment: Tensor, student_mask: Tensor) -> dict[str, Tensor]:
    """Return the mean cosine of aligned pairs and the share of student tokens without a partner.

    Args:
        student: `(batch, student_tokens, dim)`.
        teacher: `(batch, teacher_tokens, dim)`.
        alignment: int64 `(batch, student_tokens)`, -1 for none.
        student_mask: boolean `(batch, student_tokens)`, the tokens that could have been aligned.
    """
    aligned = alignment != UNALIGNED
    index = alignment.clamp(min=0)[..., None].expand(-1, -1, teacher.shape[-1])
    cosine = torch.nn.functional.cosine_similarity(student.float(), teacher.float().gather(1, index), dim=-1)
    matched = cosine.masked_fill(~aligned, 0.0).sum() / aligned.sum().clamp(min=1)
    return {
        "mean_matched_cosine": matched,
        "share_unaligned_tokens": 1 - aligned.sum() / student_mask.sum().clamp(min=1),
    }


def of_transport(student: Tensor, teacher: Tensor, weights: Tensor, student_mask: Tensor) -> dict[str, Tensor]:
    """Return the same two figures for a soft alignment: the cosine is the mean over the weights.

    Args:
        student: `(batch, student_tokens, dim)`.
        teacher: `(batch, teacher_tokens, dim)`.
        weights: `(batch, student_tokens, teacher_tokens)`; a row of zeros has no partner.
        student_mask: boolean `(batch, student_tokens)`, the tokens that could have been aligned.
    """
    student, teacher = (torch.nn.functional.normalize(tokens.float(), dim=-1) for tokens in (student, teacher))
    aligned = (weights.sum(dim=2) > 0).sum()
    matched = (weights * torch.bmm(student, teacher.transpose(1, 2))).sum() / aligned.clamp(min=1)
    return {
        "mean_matched_cosine": matched,
        "share_unaligned_tokens": 1 - aligned / student_mask.sum().clamp(min=1),
    }


def of_scores(student_scores: Tensor, teacher_scores: Tensor, temperature: float) -> dict[str, Tensor]:
    """Return the spread of both scores over candidates and the relative entropy of the teacher's softmax.

    The entropy is divided by that of the uniform distribution: 0 is saturated (one candidate has all), 1 is flat.

    Args:
        student_scores: `(batch, candidates)`.
        teacher_scores: `(batch, candidates)`.
        temperature: the loss's.
    """
    teacher = torch.log_softmax(teacher_scores.float() / temperature, dim=-1)
    entropy = -(teacher.exp() * teacher).sum(dim=-1).mean() / math.log(teacher_scores.shape[1])
    agree = student_scores.argmax(dim=-1) == teacher_scores.argmax(dim=-1)
    return {
        "student_score_spread": student_scores.detach().float().std(dim=-1).mean(),
        "teacher_score_spread": teacher_scores.float().std(dim=-1).mean(),
        "teacher_relative_entropy": entropy,
        "top_candidate_agreement": agree.float().mean(),
    }


def check_finite(means: dict[str, float], terms: Iterable[str], is_scaled: bool) -> None:
    """Check the means of the loss terms, where they are logged: to look at each step would be to wait for the device.

    Args:
        means: of what was recorded.
        terms: the names of the loss terms among them.
        is_scaled: whether a gradient scaler leaves out steps that overflow, as under float16.

    Raises:
        ValueError: for NaN or infinity, but under a scaler.
    """
    broken = [name for name in terms if name in means and not math.isfinite(means[name])]
    if broken and not is_scaled:
        raise ValueError(
            f"{', '.join(broken)}: NaN or infinity since the last log line. Look for empty passages in the candidates, or a "
            "training that diverged: lower the learning rate, and resume from a checkpoint before."
        )


def warn_if_uninformative(means: dict[str, float], logger: Any) -> None:
    """Warn, with the cure, when the teacher's softmax is saturated or flat, or its tokens are of another space."""
    cosine = means.get("mean_matched_cosine", 1.0)
    if cosine < APART:
        logger.warning(
            f"Student and teacher do not share a space (mean cosine of matched tokens {cosine:.2f}): tokens are paired by "
            "chance, and the pairs teach nothing. Start the student from the teacher's checkpoint, or map it into the "
            "teacher's space (`map_to_teacher`)."
        )
    entropy = means.get("teacher_relative_entropy")
    if entropy is None:
        return
    if entropy < SATURATED:
        logger.warning(
            f"The teacher's softmax is saturated (relative entropy {entropy:.3f}): it names one candidate and says "
            "nothing of the others. Raise `temperature`, or mine harder candidates."
        )
    elif entropy > FLAT:
        logger.warning(
            f"The teacher's softmax is flat (relative entropy {entropy:.3f}): every candidate looks alike. Lower "
            "`temperature`."
        )
