"""Encoding passages: ours, sentence-transformers, and the encoder alone on batches without padding."""

import tempfile
from collections.abc import Iterator

import torch
from sample_model import load_sample_model, sample_passages
from timing import interleaved, timing_table

from drdecr.retrieval.precision import bfloat16_copy, int8_copy
from drdecr.trainers.precision import faster_precision

DOCUMENTS = 128


@torch.no_grad()
def report(repeats: int) -> Iterator[str]:
    """Yield the table."""
    from sentence_transformers import MultiVectorEncoder

    model, texts = load_sample_model(), sample_passages(DOCUMENTS)
    batches = [
        model.processor.process_documents(sorted(texts, key=len)[start : start + 32])
        for start in range(0, DOCUMENTS, 32)
    ]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        other = MultiVectorEncoder(folder, device="cpu", trust_remote_code=True)
    narrow = {"int8": int8_copy(model, texts)}
    if faster_precision("cpu") == "bfloat16":  # emulated, it takes 300 times as long
        narrow["bfloat16"] = bfloat16_copy(model)
    ways = {
        "sentence-transformers 6.2": lambda: other.encode_document(texts, batch_size=32, show_progress_bar=False),
        "ours": lambda: model.encode_documents(texts, batch_size=32, show_progress_bar=False),
        **{
            f"ours, {name}": lambda one=one: one.encode_documents(texts, batch_size=32, show_progress_bar=False)
            for name, one in narrow.items()
        },
        "the encoder alone on sorted batches": lambda: [model(**batch) for batch in batches],
    }
    exact = torch.cat(model.encode_documents(texts, show_progress_bar=False))
    rounded = {name: torch.cat(one.encode_documents(texts, show_progress_bar=False)) for name, one in narrow.items()}
    theirs = torch.cat([torch.as_tensor(tokens) for tokens in other.encode_document(texts, show_progress_bar=False)])
    same = torch.cosine_similarity(exact, theirs, dim=-1).min().item() if theirs.shape == exact.shape else float("nan")
    notes = {
        "ours": f"smallest token cosine with sentence-transformers {same:.6f}",
        **{
            f"ours, {name}": f"smallest token cosine {torch.cosine_similarity(exact, found, dim=-1).min().item():.4f}"
            for name, found in rounded.items()
        },
    }
    yield f"### {DOCUMENTS} passages, {len(exact) / DOCUMENTS:.0f} scoring tokens each on average, 12 layers x 384\n"
    yield timing_table(interleaved(ways, max(3, repeats // 5)), "sentence-transformers 6.2", notes)
