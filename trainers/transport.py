"""Soft cross-lingual token alignment by optimal transport: a token may stand for several, and several for one.

The published alignment forces one partner on each token. Here a student token has a weight for every teacher token: the
entropic transport plan between the two texts (Cuturi 2013), as OPTICAL uses it for distillation (Huang et al., WSDM 2023).
"""

import numpy as np
import torch
from torch import Tensor

from .alignment import blocks_of_pairs, masked_cosine

LOWEST_TEMPERATURE = 0.03
"""Below it `exp(cosine / temperature)` leaves the range of float32."""


@torch.no_grad()
def transport_weights(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    student_mask: Tensor,
    teacher_mask: Tensor,
    temperature: float = 0.05,
    iterations: int = 20,
) -> Tensor:
    """Say how much each teacher token weighs for each student token (Sinkhorn-Knopp).

    The plan moves one unit of mass, spread evenly over the student's tokens, to the teacher's, spread evenly too, at the
    cost `1 - cosine`; each row of it is then scaled to sum to 1.

    Args:
        student_embeddings: `(batch, student_tokens, dim)`.
        teacher_embeddings: `(batch, teacher_tokens, dim)`, in the same space.
        student_mask: boolean `(batch, student_tokens)`, true for tokens that take part.
        teacher_mask: boolean `(batch, teacher_tokens)`, likewise.
        temperature: weight of the plan's entropy, on the scale of cosines (default 0.05): low is near to one partner a
            token, high is near to even weights.
        iterations: of scaling columns and rows in turn (default 20). The rows come last, so the student's masses are exact
            and the teacher's nearly.

    Returns:
        float32 `(batch, student_tokens, teacher_tokens)`, rows that sum to 1; a row is 0 where the token is masked or no
        teacher token takes part.

    Raises:
        ValueError: for a temperature below 0.03, fewer than one iteration, or embeddings as in `align_tokens`.
    """
    if temperature < LOWEST_TEMPERATURE:
        raise ValueError(
            f"temperature: expected at least {LOWEST_TEMPERATURE}, got {temperature}: below, float32 is too narrow. Use "
            "`align_tokens` with `optimal` for one partner a token."
        )
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}.")
    tensors = (student_embeddings, teacher_embeddings, student_mask, teacher_mask)
    return torch.cat([_weights(*block, temperature, iterations) for block in blocks_of_pairs(*tensors)])


def _weights(
    student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor, temperature: float, iterations: int
) -> Tensor:
    cosine = masked_cosine(student, teacher, student_mask, teacher_mask)
    kernel = ((cosine.transpose(1, 2) - 1) / temperature).exp()  # (batch, student_tokens, teacher_tokens), 0 if masked
    student_mass, teacher_mass = (
        (mask.float() / mask.sum(dim=1, keepdim=True).clamp(min=1))[:, :, None] for mask in (student_mask, teacher_mask)
    )
    smallest = torch.finfo(kernel.dtype).tiny
    rows = student_mass  # (batch, student_tokens, 1); columns: (batch, teacher_tokens, 1)
    for _ in range(iterations):
        columns = teacher_mass / _product(kernel.transpose(1, 2), rows).clamp(min=smallest)
        rows = student_mass / _product(kernel, columns).clamp(min=smallest)
    plan = rows * kernel * columns.transpose(1, 2)
    return plan / plan.sum(dim=2, keepdim=True).clamp(min=smallest)


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Batched matrix times vector; on a CPU numpy's takes a tenth of the time of `torch.bmm`."""
    if matrix.device.type == "cpu":
        return torch.from_numpy(np.matmul(matrix.numpy(), vector.numpy()))
    return torch.bmm(matrix, vector)
