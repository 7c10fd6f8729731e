"""How many tokens a CPU trains with at once, and what a forward and backward pass costs beside its tokens."""

from collections.abc import Iterator

import torch
from sample_model import load_sample_model, sample_passages
from timing import interleaved, timing_table

PASSAGES, A_PASS = 40, (40, 20, 10, 8, 5, 3)
LENGTHS = (4, 16, 64)


def report(repeats: int) -> Iterator[str]:
    """Yield the tables."""
    model = load_sample_model().train()
    model.get_input_embeddings().requires_grad_(False)
    batch = model.processor.process_documents(sample_passages(PASSAGES))
    lengths = batch["attention_mask"].sum(dim=1)
    order = lengths.argsort(descending=True)

    def train(groups: list[torch.Tensor], most: int) -> None:
        model.zero_grad()
        parts = []
        for rows in groups:
            width = min(int(lengths[rows].max()), most)
            ids, mask = (batch[name][rows, :width] for name in ("input_ids", "attention_mask"))
            parts.append(model(ids, mask).embeddings.flatten(0, 1))
        tokens = torch.cat(parts)
        (tokens * tokens.detach().roll(1, 0)).sum().backward()

    rounds = max(3, repeats // 5)
    whole = int(lengths.max())
    ways = {f"{count} passages a pass": lambda count=count: train(list(order.split(count)), whole) for count in A_PASS}
    yield f"### Forward and backward, {PASSAGES} passages of {int(lengths.sum())} tokens in all, {whole} at most\n"
    yield timing_table(interleaved(ways, rounds), f"{PASSAGES} passages a pass") + "\n"
    ways = {f"{length} tokens": lambda length=length: train([order[:1]], length) for length in LENGTHS}
    yield "### One text: what is left at no token is the cost of a pass\n"
    yield timing_table(interleaved(ways, repeats), f"{LENGTHS[0]} tokens")
