"""Gradient caching: the peak memory of a distillation step as candidates grow, all texts at once and 16 at a time."""

from collections.abc import Iterator

import torch
from memory import peak_megabytes
from torch import Tensor
from transformers import BertConfig

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, maxsim_candidates
from drdecr.trainers import relevance_kl
from drdecr.trainers.encoding import encode_once

ROWS, TOKENS, CANDIDATES = 4, 64, (2, 8, 32)


def small_model() -> DrDecrModel:
    """Return a random encoder of 4 layers, 256 wide: what is kept of a text is 3 MB, and it does not take long."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    encoder = BertConfig(vocab_size=1000, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
    return DrDecrModel(DrDecrConfig(encoder_config=encoder, embedding_dim=128)).train()


def texts(*shape: int) -> dict[str, Tensor]:
    """Return random texts without padding."""
    ids = torch.randint(5, 1000, shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "scoring_mask": torch.ones_like(ids).bool()}


def step(model: DrDecrModel, candidates: int, size: int | None) -> list[Tensor]:
    """Make the gradients of stage D against random teacher scores."""
    model.zero_grad()
    query, document = texts(ROWS, 32), texts(ROWS, candidates, TOKENS)
    embeddings = encode_once(model, query, size), encode_once(model, document, size)
    scores = maxsim_candidates(*embeddings, query["scoring_mask"], document["scoring_mask"])
    relevance_kl(scores, torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))).backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def report(repeats: int) -> Iterator[str]:
    """Yield the table."""
    model = small_model()
    yield f"### {ROWS} rows, passages of {TOKENS} tokens: peak of a step in MB\n"
    yield "| candidates | " + " | ".join(str(count) for count in CANDIDATES) + " |"
    yield "|---|" + "---:|" * len(CANDIDATES)
    for size in (16, None):
        peaks = [peak_megabytes(lambda n=count, size=size: step(model, n, size)) for count in CANDIDATES]
        yield f"| {f'{size} texts at a time' if size else 'all at once'} | {' | '.join(map(str, peaks))} |"
    gradients = [step(model, CANDIDATES[-1], size) for size in (16, None)]
    error = max((one - other).abs().max().item() for one, other in zip(*gradients, strict=True))
    yield f"\nGradients with {CANDIDATES[-1]} candidates differ by {error:.1e} at most.\n"
