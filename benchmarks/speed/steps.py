"""One training step of stages C and D: the published way, and what a cached teacher and less padding make of it."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from alignment import published_loop
from sample_model import load_sample_model, sample_rows
from timing import interleaved, timing_table
from torch import Tensor

from drdecr.data.collators import DistillationCollator
from drdecr.data.token_cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher, maxsim_candidates
from drdecr.trainers import DistillationArguments, DistillationTrainer, aligned_token_mse, relevance_kl

ROWS, CANDIDATES = 16, 2
QUERY_TOKENS, DOCUMENT_TOKENS = 32, 180


def padded(batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """Pad every tensor of a group to a fixed length, as the published code does."""
    return {
        name: torch.nn.functional.pad(tensor, (0, length - tensor.shape[-1]), value=1 if name == "input_ids" else 0)
        for name, tensor in batch.items()
    }


def published_scores(model: DrDecrModel, query: dict[str, Tensor], document: dict[str, Tensor]) -> Tensor:
    """Encode questions and candidates at full length and score them."""
    flat = {name: tensor.flatten(0, 1) for name, tensor in document.items()}
    documents = model(**flat).embeddings.unflatten(0, (ROWS, CANDIDATES))
    return maxsim_candidates(model(**query).embeddings, documents, query["scoring_mask"], document["scoring_mask"])


def published_relevance(student: DrDecrModel, teacher: DrDecrModel, batch: dict[str, Any]) -> Tensor:
    """Stage D with a live teacher, everything padded."""
    query, english = (padded(batch[side], QUERY_TOKENS) for side in ("query", "teacher_query"))
    document = padded(batch["document"], DOCUMENT_TOKENS)
    with torch.no_grad():
        target = published_scores(teacher, english, document)
    return relevance_kl(published_scores(student, query, document), target)


def published_tokens(student: DrDecrModel, teacher: DrDecrModel, batch: dict[str, Any]) -> Tensor:
    """Stage C's token term with a live teacher, everything padded, aligned by the loop over the text's own tokens."""
    query, english = (padded(batch[side], QUERY_TOKENS) for side in ("query", "teacher_query"))
    own = student(**query).embeddings
    with torch.no_grad():
        other = teacher(**english).embeddings
    partners = torch.full(query["text_mask"].shape, -1)
    for row in range(ROWS):  # masked here, unlike the published code, so that the losses can be compared
        students, teachers = query["text_mask"][row].nonzero()[:, 0], english["text_mask"][row].nonzero()[:, 0]
        size = max(len(students), len(teachers))
        filled = [
            torch.cat([tokens, -tokens.new_ones(size - len(tokens), tokens.shape[1])])
            for tokens in (own.detach()[row, students], other[row, teachers])
        ]
        found = published_loop(filled[0][None], filled[1][None])[0][: len(students)]
        inside = found < len(teachers)
        partners[row, students[inside]] = teachers[found[inside]]
    return aligned_token_mse(own, other, partners)


def report(repeats: int) -> Iterator[str]:
    """Yield the tables."""
    start = load_sample_model()
    teacher = DrDecrTeacher(copy.deepcopy(start.config))
    teacher.load_state_dict(start.state_dict())
    teacher.processor = start.processor
    rows, passages = sample_rows(ROWS, CANDIDATES)
    used = {name: passages[name] for row in rows for name in row["document_ids"]}
    queries = TokenCache.of_queries(teacher, [row["english"] for row in rows], show_progress_bar=False)
    documents = TokenCache.of_documents(teacher, used, show_progress_bar=False)
    for row in rows:
        scores = [(queries.tokens(row["english"]) @ documents.tokens(name).T) for name in row["document_ids"]]
        row["teacher_scores"] = [score.float().amax(dim=1).sum().item() for score in scores]
    live = DistillationCollator(start.processor, passages=passages)(
        [{name: row[name] for name in ("query", "english", "document_ids")} for row in rows]
    )
    processor = start.processor
    cached_scores = DistillationCollator(processor, passages=passages)(rows)
    cached_passages = DistillationCollator(processor, passages=passages, document_cache=documents)(rows)
    texts = [{name: row[name] for name in ("query", "english")} for row in rows]
    cached_tokens = DistillationCollator(processor, query_cache=queries)(texts)
    with tempfile.TemporaryDirectory() as folder:
        make = partial(step_of, folder, start, teacher)
        steps = {
            "published way": make({"relevance_weight": 1.0}, live, published_relevance),
            "cached scores": make({"relevance_weight": 1.0}, cached_scores),
            "cached scores, bfloat16": make({"relevance_weight": 1.0, "bf16": True}, cached_scores),
            "into the index": make({"relevance_weight": 1.0}, cached_passages),
            "into the index, bfloat16": make({"relevance_weight": 1.0, "bf16": True}, cached_passages),
        }
        yield f"### Stage D: {ROWS} questions, {CANDIDATES} candidates each, forward, backward and update\n"
        yield _table(steps, repeats) + "\n"
        steps = {
            "published way": make({"token_weight": 1.0}, live, published_tokens),
            "cached tokens": make({"token_weight": 1.0}, cached_tokens),
            "cached tokens, bfloat16": make({"token_weight": 1.0, "bf16": True}, cached_tokens),
        }
        yield f"### Stage C, the token term: {ROWS} sentences, forward, backward and update\n"
        yield _table(steps, repeats)


def step_of(
    folder: str,
    start: DrDecrModel,
    teacher: DrDecrTeacher,
    settings: dict[str, Any],
    batch: dict[str, Any],
    published: Callable[..., Tensor] | None = None,
) -> tuple[Callable[[], None], float]:
    """Return a function that trains one step of a copy of the student, and the loss before any.

    Args:
        folder: for the trainer.
        start: the student.
        teacher: read by `published`.
        settings: the trainer's.
        batch: of the collator.
        published: makes the loss in the trainer's place.
    """
    student = copy.deepcopy(start)
    student.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in student.parameters() if weight.requires_grad], lr=0.0)
    args = DistillationArguments(output_dir=folder, use_cpu=True, max_steps=1, report_to=[], **settings)
    trainer = DistillationTrainer(student, args)
    prepared = trainer.accelerator.prepare_model(student)  # runs the encoder in bfloat16 where that is asked for

    def loss_of() -> Tensor:
        return trainer.compute_loss(prepared, batch) if published is None else published(student, teacher, batch)

    def step() -> None:
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, loss_of().item()


def _table(steps: dict[str, tuple[Callable[[], None], float]], repeats: int) -> str:
    base = steps["published way"][1]
    notes = {
        name: f"loss {loss:.6f}, {abs(loss - base) / base:.1e} from the published way's"
        for name, (_, loss) in steps.items()
    }
    timings = interleaved({name: step for name, (step, _) in steps.items()}, repeats)
    return timing_table(timings, "published way", notes)
