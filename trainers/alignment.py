"""Cross-lingual token alignment: which teacher token does each student token stand for (paper, section 3.2).

The student reads a question as it was asked, the teacher its English translation. Words move, split and merge, so the
tokens are paired by what they mean: by the cosine of their current embeddings. No gradient runs through the choice.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

METHODS = ("greedy", "optimal")
UNALIGNED = -1


@torch.no_grad()
def align_tokens(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    student_mask: Tensor,
    teacher_mask: Tensor,
    method: str = "greedy",
) -> Tensor:
    """Pair student tokens with teacher tokens, one to one, by cosine similarity.

    `greedy` is the published algorithm: take the most similar pair of all unused tokens, strike both, repeat. `optimal`
    maximises the sum of similarities instead (Hungarian algorithm, on the CPU).

    Args:
        student_embeddings: `(batch, student_tokens, dim)`.
        teacher_embeddings: `(batch, teacher_tokens, dim)`, in the same space.
        student_mask: boolean `(batch, student_tokens)`, true for tokens that may be paired.
        teacher_mask: boolean `(batch, teacher_tokens)`, likewise. Masks with every entry true pair special tokens and
            padding too, as the authors' code does.
        method: `"greedy"` (default, the paper's) or `"optimal"`.

    Returns:
        int64 `(batch, student_tokens)`: the index of each student token's teacher token, or -1 where it has none: for
        masked tokens, and for the least similar ones where the teacher has fewer tokens.

    Raises:
        ValueError: for an unknown method, shapes that do not belong together, or embeddings that are not finite.
    """
    _check(student_embeddings, teacher_embeddings, student_mask, teacher_mask, method)
    student = torch.nn.functional.normalize(student_embeddings.float(), dim=-1)
    teacher = torch.nn.functional.normalize(teacher_embeddings.float(), dim=-1)
    # Teacher tokens are the rows, as in the paper's cost matrix: ties then fall to the same pair.
    similarity = torch.bmm(teacher, student.transpose(1, 2))  # (batch, teacher_tokens, student_tokens)
    pairs = teacher_mask[:, :, None] & student_mask[:, None, :]
    if method == "greedy":
        return _greedy(similarity.masked_fill(~pairs, -torch.inf))
    return _optimal(similarity, student_mask, teacher_mask)


def _greedy(similarity: Tensor) -> Tensor:
    """Match in rounds: a pair that is the best of its row and of its column is one that the greedy loop would take.

    Each round takes all such pairs at once, so a handful of rounds replaces one step a token.

    Args:
        similarity: `(batch, teacher_tokens, student_tokens)`, -inf where no pair may be made.
    """
    batch, teacher_tokens, student_tokens = similarity.shape
    alignment = torch.full((batch, student_tokens), UNALIGNED, dtype=torch.int64, device=similarity.device)
    if 0 in similarity.shape:
        return alignment
    teacher_index = torch.arange(teacher_tokens, device=similarity.device)
    for _ in range(min(teacher_tokens, student_tokens)):
        best_of_row, student_of_row = similarity.max(dim=2)  # (batch, teacher_tokens)
        teacher_of_column = similarity.argmax(dim=1)  # (batch, student_tokens)
        mutual = teacher_of_column.gather(1, student_of_row) == teacher_index
        taken_rows = mutual & (best_of_row > -torch.inf)
        if similarity.device.type == "cpu" and not taken_rows.any():  # elsewhere the question would cost a sync
            break
        # Rows that took nothing write into a spare column, which is cut off again.
        target = torch.where(taken_rows, student_of_row, student_tokens)
        padded = torch.nn.functional.pad(alignment, (0, 1))
        alignment = padded.scatter(1, target, teacher_index.expand(batch, -1))[:, :student_tokens]
        taken_columns = alignment != UNALIGNED
        similarity = similarity.masked_fill(taken_rows[:, :, None] | taken_columns[:, None, :], -torch.inf)
    return alignment


def _optimal(similarity: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> Tensor:
    alignment = torch.full(student_mask.shape, UNALIGNED, dtype=torch.int64)
    rows = zip(similarity.cpu().numpy(), student_mask.cpu().numpy(), teacher_mask.cpu().numpy(), strict=True)
    for index, (matrix, student_counts, teacher_counts) in enumerate(rows):
        students, teachers = student_counts.nonzero()[0], teacher_counts.nonzero()[0]
        chosen_teachers, chosen_students = linear_sum_assignment(matrix[teachers][:, students], maximize=True)
        alignment[index, students[chosen_students]] = torch.from_numpy(teachers[chosen_teachers])
    return alignment.to(similarity.device)


def _check(student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor, method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"alignment: expected one of {', '.join(METHODS)}, got {method!r}.")
    if student.dim() != 3 or teacher.dim() != 3 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            "align_tokens expects (batch, tokens, dim) from student and teacher with one batch size, got "
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
                f"align_tokens expects a boolean {name} mask of shape {tuple(embeddings.shape[:2])}, got {mask.dtype} "
                f"of shape {tuple(mask.shape)}."
            )
        if not torch.isfinite(embeddings).all():
            raise ValueError(f"{name} embeddings are not finite, so no alignment exists. Lower the learning rate.")
