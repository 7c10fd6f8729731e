"""The loss terms of DR.DECR: tensors in, one float32 scalar out. No model, device or process group in here.

Masks are boolean and mean "this counts". A row without a token that counts adds 0 with a zero gradient to a token term,
so that it does not stop a run.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .alignment import UNALIGNED


def relevance_kl(student_scores: Tensor, teacher_scores: Tensor, temperature: float = 2.0) -> Tensor:
    """Relevance-score distillation (paper, section 3.1).

    `T^2 * mean_b KL( softmax(teacher_scores / T) || softmax(student_scores / T) )`

    Args:
        student_scores: `(batch, candidates)`, with gradient.
        teacher_scores: `(batch, candidates)`.
        temperature: T, on the scale of the scores (default 2, the paper's, for sums of cosines over 32 tokens). The
            factor T^2 keeps the gradient's size when T changes (Hinton et al. 2015).

    Raises:
        ValueError: for one candidate, different shapes, a temperature that is not positive, or, on a CPU, scores that are
            not finite: an accelerator would have to wait for the answer, and trainers look where they log.
    """
    if student_scores.shape != teacher_scores.shape or student_scores.dim() != 2:
        raise ValueError(
            "relevance_kl expects student and teacher scores of one shape (batch, candidates), got "
            f"{tuple(student_scores.shape)} and {tuple(teacher_scores.shape)}."
        )
    _at_least_two("relevance_kl", student_scores)
    _positive("temperature", temperature)
    for name, scores in (("student", student_scores), ("teacher", teacher_scores)):
        if scores.device.type == "cpu" and not torch.isfinite(scores).all():
            raise ValueError(
                f"{name} scores hold NaN or infinity. Look for empty passages in the candidates, or a training that "
                "diverged."
            )
    student = functional.log_softmax(student_scores.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_scores.detach().float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def aligned_token_mse(student_embeddings: Tensor, teacher_embeddings: Tensor, alignment: Tensor) -> Tensor:
    """Token-representation distillation over an alignment (paper, section 3.2).

    `mean_b mean_(s, d) (student[b, s, d] - teacher[b, a(s), d])^2`, s over the aligned tokens of row b

    Args:
        student_embeddings: `(batch, student_tokens, dim)`, with gradient.
        teacher_embeddings: `(batch, teacher_tokens, dim)`.
        alignment: int64 `(batch, student_tokens)` from `align_tokens`; -1 leaves a token out.
    """
    aligned = alignment != UNALIGNED
    index = alignment.clamp(min=0)[..., None].expand(-1, -1, teacher_embeddings.shape[-1])
    targets = teacher_embeddings.detach().gather(1, index)  # (batch, student_tokens, dim)
    return _masked_mse(student_embeddings, targets, aligned)


def transported_token_mse(student_embeddings: Tensor, teacher_embeddings: Tensor, weights: Tensor) -> Tensor:
    """Token-representation distillation over a soft alignment (OPTICAL, Huang et al. 2023).

    `mean_b mean_s sum_t weights[b, s, t] mean_d (student[b, s, d] - teacher[b, t, d])^2`, s over the tokens of row b with
    weights. One partner of weight 1 a token gives `aligned_token_mse`.

    Args:
        student_embeddings: `(batch, student_tokens, dim)`, with gradient.
        teacher_embeddings: `(batch, teacher_tokens, dim)`.
        weights: `(batch, student_tokens, teacher_tokens)` from `transport_weights`: rows sum to 1, or to 0 for tokens that
            are left out.
    """
    student, teacher = student_embeddings.float(), teacher_embeddings.detach().float()
    # (s - t)^2 = s^2 + t^2 - 2 s t, so that no (batch, student_tokens, teacher_tokens, dim) is made.
    squares = student.square().sum(dim=-1)[:, :, None] + teacher.square().sum(dim=-1)[:, None, :]
    distances = squares - 2 * torch.bmm(student, teacher.transpose(1, 2))  # (batch, student_tokens, teacher_tokens)
    by_token = (weights * distances).sum(dim=2) / student.shape[-1]  # (batch, student_tokens)
    counts = (weights.sum(dim=2) > 0).sum(dim=1).clamp(min=1)
    return (by_token.sum(dim=1) / counts).mean()


def english_anchor_mse(student_embeddings: Tensor, teacher_embeddings: Tensor, mask: Tensor) -> Tensor:
    """Keep the student's English document encoding equal to the teacher's (paper, section 3.2).

    `mean_b mean_(t, d) (student[b, t, d] - teacher[b, t, d])^2`, t over the tokens of row b that count

    Args:
        student_embeddings: `(batch, tokens, dim)` of English text in the document slot, with gradient.
        teacher_embeddings: the teacher's, for the same tokens.
        mask: boolean `(batch, tokens)`.

    Raises:
        ValueError: if the shapes differ, which means that student and teacher have different tokenizers.
    """
    if student_embeddings.shape != teacher_embeddings.shape:
        raise ValueError(
            "The English anchor compares token with token, so student and teacher need one tokenizer and one "
            f"dimension; got {tuple(student_embeddings.shape)} and {tuple(teacher_embeddings.shape)}. Set "
            "`anchor_weight` to 0."
        )
    return _masked_mse(student_embeddings, teacher_embeddings.detach(), mask)


def candidate_cross_entropy(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Contrastive loss over a query's own candidates, the first of which is the positive.

    `mean_b -log softmax(scores / T)[0]`; with two candidates the pairwise loss of ColBERT and of the paper's stages A,
    B.

    Args:
        scores: `(batch, candidates)`, with gradient.
        temperature: T (default 1, the paper's).

    Raises:
        ValueError: for one candidate or a temperature that is not positive.
    """
    _at_least_two("candidate_cross_entropy", scores)
    _positive("temperature", temperature)
    return -functional.log_softmax(scores.float() / temperature, dim=-1)[:, 0].mean()


def in_batch_cross_entropy(scores: Tensor, positives: Tensor, counts: Tensor, temperature: float = 1.0) -> Tensor:
    """Contrastive loss of each query against every document of the batch.

    `mean_b -log( exp(s[b, p_b] / T) / sum_m exp(s[b, m] / T) )`, m over the documents that count for b.

    Args:
        scores: `(num_queries, num_documents)`, with gradient.
        positives: int64 `(num_queries,)`, the column of each query's positive.
        counts: boolean `(num_queries, num_documents)`; false where another query's document is also an answer to this
            one, so that it is no negative. A query's own positive always counts.
        temperature: T (default 1).

    Raises:
        ValueError: for one document, or a temperature that is not positive.
    """
    _at_least_two("in_batch_cross_entropy", scores)
    _positive("temperature", temperature)
    is_positive = functional.one_hot(positives, scores.shape[1]).bool()
    logits = (scores.float() / temperature).masked_fill(~(counts | is_positive), -torch.inf)
    return functional.cross_entropy(logits, positives)


def _masked_mse(student: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    # Each row has one voice, however long it is: so a batch split over processes or accumulation steps has the same
    # mean.
    squared = (student.float() - target.float()).square().mean(dim=-1)  # (batch, tokens)
    return (squared.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def _at_least_two(name: str, scores: Tensor) -> None:
    if scores.dim() != 2 or scores.shape[1] < 2:
        got = scores.shape[1] if scores.dim() == 2 else f"scores of shape {tuple(scores.shape)}"
        raise ValueError(
            f"{name}: a softmax over one candidate teaches nothing, got {got}. Give at least two `document_ids` a row."
        )


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: expected a positive number, got {value}.")
