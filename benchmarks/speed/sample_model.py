"""The model and the texts that the benchmarks measure on: the offline encoder, and the package's sample data."""

from drdecr.data.offline.backbone import prepare_offline_backbone
from drdecr.data.offline.sample import read_sample_questions
from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor


def load_sample_model() -> DrDecrModel:
    """Return multilingual-e5-small (12 layers, 384 wide) under a random projection to 128 dimensions, in eval mode."""
    folder = str(prepare_offline_backbone())
    model = DrDecrModel.from_pretrained(folder, config=DrDecrConfig.from_pretrained(folder, embedding_dim=128)).eval()
    tokenizer = model.processor.tokenizer
    model.processor = DrDecrProcessor(tokenizer)  # without prefixes, which sentence-transformers writes only when told
    return model


def sample_passages(count: int) -> list[str]:
    """Return passages of 20 to 180 tokens: those of the sample, one to four joined, so that lengths vary."""
    texts = list(read_sample_questions("test").passages.values())
    return [" ".join(texts[(index * 7 + part) % len(texts)] for part in range(1 + index % 4)) for index in range(count)]


def sample_rows(count: int, num_candidates: int) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Return rows with an English question and candidates, the labelled passage first, and the passages; none stands twice."""
    found = read_sample_questions("train")
    names = list(found.passages)
    rows = []
    every = len(found.questions) // count
    chosen = list(found.questions.select(range(0, every * count, every)))
    free = [name for name in names if name not in {question["document_ids"][0] for question in chosen}]
    for index, question in enumerate(chosen):
        own = question["document_ids"][0]
        others = free[index * (num_candidates - 1) : (index + 1) * (num_candidates - 1)]
        rows.append({"query": question["query"], "english": question["english"], "document_ids": [own, *others]})
    return rows, found.passages
