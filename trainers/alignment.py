"""Cross-lingual token alignment: which teacher token does each student token stand for (paper, section 3.2).

The student reads a question as it was asked, the teacher its English translation. Words move, split and merge, so the
tokens are paired by what they mean: by the cosine of their current embeddings. No gradient runs through the choice.
"""

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

METHODS = ("greedy", "optimal", "argmax")
UNALIGNED = -1
BLOCK_BYTES = {"cpu": 2**20}
"""Bytes of the similarities that are aligned at once: what a CPU's cache holds."""
OTHER_BLOCK_BYTES = 2**28
"""The same on any other device: what does not fill its memory."""


@torch.no_grad()
def align_tokens(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    student_mask: Tensor,
    teacher_mask: Tensor,
    method: str = "greedy",
) -> Tensor:
    """Pair student tokens with teacher tokens by cosine similarity.

    `greedy` is the published algorithm: take the most similar pair of all unused tokens, strike both, repeat. `optimal`
    maximises the sum of similarities instead (Hungarian algorithm, on the CPU). Both pair one to one. `argmax` gives each
    student token the most similar teacher token, which several may share. For weights instead of one partner there is
    `transport.transport_weights`.

    Args:
        student_embeddings: `(batch, student_tokens, dim)`.
        teacher_embeddings: `(batch, teacher_tokens, dim)`, in the same space.
        student_mask: boolean `(batch, student_tokens)`, true for tokens that may be paired.
        teacher_mask: boolean `(batch, teacher_tokens)`, likewise. Masks with every entry true pair special tokens and
            padding too, as the authors' code does.
        method: `"greedy"` (default, the paper's), `"optimal"` or `"argmax"`.

    Returns:
        int64 `(batch, student_tokens)`: the index of each student token's teacher token, or -1 where it has none: for
        masked tokens, and, one to one, for the least similar ones where the teacher has fewer tokens.

    Raises:
        ValueError: for an unknown method, shapes that do not belong together, or, on a CPU, embeddings that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"alignment: expected one of {', '.join(METHODS)}, got {method!r}.")
    tensors = (student_embeddings, teacher_embeddings, student_mask, teacher_mask)
    return torch.cat([_align_block(*block, method) for block in blocks_of_pairs(*tensors)])


def blocks_of_pairs(
    student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Split a batch into blocks whose similarities fit the cache; arguments and errors as for `align_tokens`."""
    _check(student, teacher, student_mask, teacher_mask)
    pairs = max(1, student_mask.shape[1] * teacher_mask.shape[1])
    size = max(1, BLOCK_BYTES.get(student_mask.device.type, OTHER_BLOCK_BYTES) // (4 * pairs))
    tokens = student.split(size), teacher.split(size)
    return list(zip(*tokens, student_mask.split(size), teacher_mask.split(size), strict=True))


def _align_block(student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor, method: str) -> Tensor:
    if 0 in (*student_mask.shape, *teacher_mask.shape):
        return torch.full(student_mask.shape, UNALIGNED, dtype=torch.int64, device=student_mask.device)
    if method == "argmax":
        return _nearest(student, teacher, student_mask, teacher_mask)
    similarity = masked_cosine(student, teacher, student_mask, teacher_mask)
    if method == "optimal":
        return _optimal(similarity, student_mask, teacher_mask)
    on_cpu = similarity.device.type == "cpu"
    partners = _greedy_without_ties(similarity, student_mask, teacher_mask) if on_cpu else None
    return _greedy(similarity) if partners is None else partners


def masked_cosine(student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> Tensor:
    """Return the cosine of every pair, -inf where one of the two is masked; arguments and errors as for `align_tokens`.

    Returns:
        float32 `(batch, teacher_tokens, student_tokens)`. Teacher tokens are the rows, as in the paper's cost matrix: ties
        then fall to the same pair.
    """
    _check(student, teacher, student_mask, teacher_mask)
    student, teacher = student.float(), teacher.float()
    student_scale, teacher_scale = _reciprocal_norms(student, "student"), _reciprocal_norms(teacher, "teacher")
    # Scaled afterwards: normalised copies of both would cost more than the product does.
    cosine = torch.bmm(teacher, student.transpose(1, 2))
    cosine.mul_(teacher_scale[:, :, None]).mul_(student_scale[:, None, :])
    for mask, axis in ((teacher_mask, 2), (student_mask, 1)):
        if mask.device.type != "cpu" or not mask.all():
            cosine.masked_fill_(~mask.unsqueeze(axis), -torch.inf)
    return cosine


def _reciprocal_norms(tokens: Tensor, name: str) -> Tensor:
    """Return one over the length of each token, float32 `(batch, tokens)`; of a zero vector a number that is finite.

    Lengths below 1e-18, whose squares float32 does not hold, count as none.
    """
    norms = torch.linalg.vector_norm(tokens, dim=-1)
    # An accelerator would have to wait for the answer.
    if norms.device.type == "cpu" and norms.numel() > 0 and not math.isfinite(norms.max()):
        raise ValueError(f"{name} embeddings are not finite, so no alignment exists. Lower the learning rate.")
    return norms.clamp_(min=torch.finfo(torch.float32).tiny).reciprocal_()


def pair_tokens(student_tokens: Tensor, teacher_tokens: Tensor, method: str = "greedy") -> tuple[Tensor, Tensor]:
    """Align the tokens of one question with those of its English form, and keep what the choice was made from.

    Args:
        student_tokens: `(student_tokens, dim)`, those that may be paired.
        teacher_tokens: `(teacher_tokens, dim)`, in the same space.
        method: as in `align_tokens`.

    Returns:
        The cosines, float32 `(student_tokens, teacher_tokens)`, and each student token's teacher token, int64
        `(student_tokens,)`, -1 where it has none.

    Raises:
        ValueError: as in `align_tokens`.
    """
    student, teacher = student_tokens[None], teacher_tokens[None]
    student_mask, teacher_mask = (torch.ones_like(tokens[..., 0], dtype=torch.bool) for tokens in (student, teacher))
    partners = align_tokens(student, teacher, student_mask, teacher_mask, method)[0]
    return masked_cosine(student, teacher, student_mask, teacher_mask)[0].T, partners


def _greedy_without_ties(similarity: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> Tensor | None:
    """`_greedy` for a CPU: only the pairs of a round are looked up and written, in numpy, whose calls cost less.

    Returns:
        The alignment; None where the best of a row or of a column has an equal in it: `_greedy` decides.
    """
    remaining = similarity
    alignment = np.full(student_mask.shape, UNALIGNED, dtype=np.int64)
    missing = int(torch.minimum(student_mask.sum(dim=1), teacher_mask.sum(dim=1)).sum())
    while missing > 0:
        # Above -inf, so that no masked pair is best.
        best_of_row, best_of_column = (remaining.amax(dim=axis, keepdim=True).clamp_(min=-2) for axis in (2, 1))
        is_best_of_row, is_best_of_column = remaining == best_of_row, remaining == best_of_column
        for is_best, best in ((is_best_of_row, best_of_row), (is_best_of_column, best_of_column)):
            if np.count_nonzero(is_best.numpy()) > np.count_nonzero(best.numpy() > -2):
                return None
        places = np.flatnonzero((is_best_of_row & is_best_of_column).numpy())
        if not len(places):
            return None
        row, teacher, student = np.unravel_index(places, remaining.shape)
        alignment[row, student] = teacher
        missing -= len(row)
        if missing > 0:
            if remaining is similarity:
                remaining = similarity.clone()
            # The same memory: torch finds the maxima several times as fast, numpy the few places.
            left = remaining.numpy()
            left[row, teacher] = -np.inf
            left[row, :, student] = -np.inf
    return torch.from_numpy(alignment)


def _greedy(similarity: Tensor) -> Tensor:
    """Match in rounds: a pair that is the best of its row and of its column is one that the greedy loop would take.

    Each round takes all such pairs at once, so a handful of rounds replaces one step a token. An accelerator runs as many
    rounds as there could be: to ask whether one is the last would be to wait for it.

    Args:
        similarity: `(batch, teacher_tokens, student_tokens)`, -inf where no pair may be made.
    """
    batch, teacher_tokens, student_tokens = similarity.shape
    alignment = torch.full((batch, student_tokens), UNALIGNED, dtype=torch.int64, device=similarity.device)
    teacher_index = torch.arange(teacher_tokens, device=similarity.device)
    for _ in range(min(teacher_tokens, student_tokens)):
        best_of_row, student_of_row = similarity.max(dim=2)  # (batch, teacher_tokens)
        teacher_of_column = similarity.argmax(dim=1)  # (batch, student_tokens)
        mutual = teacher_of_column.gather(1, student_of_row) == teacher_index
        taken_rows = mutual & (best_of_row > -torch.inf)
        if similarity.device.type == "cpu" and not taken_rows.any():
            break
        # Rows that took nothing write into a spare column, which is cut off again.
        target = torch.where(taken_rows, student_of_row, student_tokens)
        padded = torch.nn.functional.pad(alignment, (0, 1))
        alignment = padded.scatter(1, target, teacher_index.expand(batch, -1))[:, :student_tokens]
        taken_columns = alignment != UNALIGNED
        similarity = similarity.masked_fill(taken_rows[:, :, None] | taken_columns[:, None, :], -torch.inf)
    return alignment


def _nearest(student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> Tensor:
    """Give each student token the most similar teacher token; its own length does not matter to that."""
    products = torch.bmm(student.float(), teacher.float().transpose(1, 2))
    products.mul_(_reciprocal_norms(teacher.float(), "teacher")[:, None, :])  # (batch, student_tokens, teacher_tokens)
    is_cpu = products.device.type == "cpu"
    if is_cpu and not math.isfinite(products.sum()):
        _reciprocal_norms(student.float(), "student")  # says so
    if not is_cpu or not teacher_mask.all():
        products.masked_fill_(~teacher_mask[:, None, :], -torch.inf)
    # numpy's takes a fifth of torch's time.
    nearest = torch.from_numpy(products.numpy().argmax(axis=2)) if is_cpu else products.argmax(dim=2)
    if is_cpu and student_mask.all() and teacher_mask.all():
        return nearest
    return torch.where(student_mask & teacher_mask.any(dim=1, keepdim=True), nearest, UNALIGNED)


def _optimal(similarity: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> Tensor:
    alignment = np.full(student_mask.shape, UNALIGNED, dtype=np.int64)
    is_whole = bool(student_mask.all() and teacher_mask.all())
    rows = zip(similarity.cpu().numpy(), student_mask.cpu().numpy(), teacher_mask.cpu().numpy(), strict=True)
    for partners, (matrix, student_counts, teacher_counts) in zip(alignment, rows, strict=True):
        if is_whole:
            chosen_teachers, chosen_students = linear_sum_assignment(matrix, maximize=True)
            partners[chosen_students] = chosen_teachers
            continue
        students, teachers = np.flatnonzero(student_counts), np.flatnonzero(teacher_counts)
        chosen_teachers, chosen_students = linear_sum_assignment(matrix[teachers[:, None], students], maximize=True)
        partners[students[chosen_students]] = teachers[chosen_teachers]
    return torch.from_numpy(alignment).to(similarity.device)


def _check(student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> None:
    if student.dim() != 3 or teacher.dim() != 3 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            "alignment expects (batch, tokens, dim) from student and teacher with one batch size, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"Student and teacher tokens must share one space, got {student.shape[-1]} and {teacher.shape[-1]} "
            "dimensions. Give both the same `embedding_dim` and start the student from the teacher's checkpoint."
        )
    for name, mask, embeddings in (("student", student_mask, student), ("teacher", teacher_mask, teacher)):
        if mask.dtype != torch.bool or mask.shape != embeddings.shape[:2]:
            raise ValueError(
                f"alignment expects a boolean {name} mask of shape {tuple(embeddings.shape[:2])}, got {mask.dtype} "
                f"of shape {tuple(mask.shape)}."
            )
