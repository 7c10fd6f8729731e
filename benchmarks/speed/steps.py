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
from drdecr.data.embeddings.cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher, maxsim_candidates
from drdecr.trainers import (
    DistillationArguments,
    DistillationTrainer,
    aligned_token_mse,
    english_anchor_mse,
    relevance_kl,
)
from drdecr.trainers.precision import faster_precision

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


def published_representation(student: DrDecrModel, teacher: DrDecrTeacher, batch: dict[str, Any]) -> Tensor:
    """Both terms of stage C: tokens in the query slot, and the English sentence in the document slot, padded too."""
    anchor = padded(batch["anchor"], DOCUMENT_TOKENS)
    own = student(**anchor).embeddings
    with torch.no_grad():
        other = teacher(**anchor).embeddings
    tokens = published_tokens(student, teacher, batch)
    return 0.5 * tokens + 0.5 * english_anchor_mse(own, other, anchor["scoring_mask"])


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
    asked = teacher.encode_queries([row["english"] for row in rows], show_progress_bar=False)
    read = dict(zip(used, teacher.encode_documents(list(used.values()), show_progress_bar=False), strict=True))
    for row, query in zip(rows, asked, strict=True):
        row["teacher_scores"] = [(query @ read[name].T).amax(dim=1).sum().item() for name in row["document_ids"]]
    live = DistillationCollator(start.processor, passages=passages)(
        [{name: row[name] for name in ("query", "english", "document_ids")} for row in rows]
    )
    processor = start.processor
    cached_scores = DistillationCollator(processor, passages=passages)(rows)
    cached_passages = DistillationCollator(processor, passages=passages, document_cache=documents)(rows)
    texts = [{name: row[name] for name in ("query", "english")} for row in rows]
    precisions: dict[str, dict[str, bool]] = {"": {}}
    if faster_precision("cpu") == "bfloat16":  # emulated, a step takes minutes
        precisions[", bfloat16"] = {"bf16": True}
    live_sentences, cached_sentences = (
        DistillationCollator(processor, query_cache=cache, anchor=True)(texts) for cache in (None, queries)
    )
    cached_tokens = DistillationCollator(processor, query_cache=queries)(texts)
    with tempfile.TemporaryDirectory() as folder:
        make = partial(step_of, folder, start, teacher)
        parts = {
            f"Stage D: {ROWS} questions, {CANDIDATES} candidates each": (
                {"relevance_weight": 1.0},
                (published_relevance, live),
                {"cached scores": cached_scores, "into the index": cached_passages},
            ),
            f"Stage C: {ROWS} sentences and their English anchors": (
                {"token_weight": 0.5, "anchor_weight": 0.5},
                (published_representation, live_sentences),
                {"cached tokens": cached_sentences},
            ),
            f"Stage C, the token term: {ROWS} sentences": (
                {"token_weight": 1.0},
                (published_tokens, live_sentences),
                {"cached tokens": cached_tokens},
            ),
        }
        for title, (weights, (published, batch), ours) in parts.items():
            steps = {
                "published way": make(weights, batch, published, trained_words=True),
                "the same, word embeddings frozen": make(weights, batch, published),
            }
            for precision, setting in precisions.items():
                steps |= {f"{name}{precision}": make({**weights, **setting}, batch) for name, batch in ours.items()}
            yield f"### {title}, forward, backward and update\n"
            yield _table(steps, repeats) + "\n"


def step_of(
    folder: str,
    start: DrDecrModel,
    teacher: DrDecrTeacher,
    settings: dict[str, Any],
    batch: dict[str, Any],
    published: Callable[..., Tensor] | None = None,
    trained_words: bool = False,
) -> tuple[Callable[[], None], float]:
    """Return a function that trains one step of a copy of the student, and the loss before any.

    Args:
        folder: for the trainer.
        start: the student.
        teacher: read where the batch does not say what it finds.
        settings: the trainer's.
        batch: of the collator.
        published: makes the loss in the trainer's place.
        trained_words: the word embeddings are updated too, as in the paper.
    """
    student = copy.deepcopy(start)
    student.get_input_embeddings().requires_grad_(trained_words)
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)  # the Trainer's
    args = DistillationArguments(output_dir=folder, use_cpu=True, max_steps=1, report_to=[], **settings)
    trainer = DistillationTrainer(student, args, teacher)
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
