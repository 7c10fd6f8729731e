"""Write tiny checkpoints of three families under many settings, with the embeddings that drdecr gives for them.

    python benchmarks/loaders/make_checkpoints.py FOLDER
    python benchmarks/loaders/compare.py sentence-transformers FOLDER   # and pylate, stanford, each where it is installed

Nothing is downloaded. The tokenizers are of the kinds that the families have: WordPiece for BERT, Unigram over "▁" for
XLM-R, bytes for ModernBERT.
"""

import json
import string
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, ModernBertConfig, PreTrainedConfig, PreTrainedTokenizerFast, XLMRobertaConfig

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor
from drdecr.modeling_drdecr.interop_drdecr import loader_limits
from drdecr.trainers.projection import initialise_projection

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[Q]", "[D]"]
ENGLISH = [
    "What is the capital of France?",
    "Paris is the capital, and the largest city, of France.",
    "The river (1,200 km long) flows into the sea!",
    "query: where was the king born",
    "passage: the king's house stood in a small town; nobody lives there.",
]
FINNISH = ["Mikä on Ranskan pääkaupunki?", "Joki laskee mereen.", "Missä kuningas syntyi?"]
TEXTS = [*ENGLISH, "sea", "", "the " * 40, "a-b: c... (d)", "query passage", "jäätelö?", *FINNISH]

MARKERS = {"query_marker": "[Q]", "document_marker": "[D]"}
PREFIXES = {"query_prefix": "query: ", "document_prefix": "passage: "}
SETTINGS = {
    "defaults": {},
    "markers": MARKERS,
    "markers, expansion": {**MARKERS, "query_expansion": "mask"},
    "markers, attended expansion": {**MARKERS, "query_expansion": "mask", "attend_to_expansion": True},
    "markers, expansion, language-neutral": {**MARKERS, "query_expansion": "mask"},
    "markers, expansion, no skipping": {**MARKERS, "query_expansion": "mask", "skip_punctuation": False},
    "expansion": {"query_expansion": "mask"},
    "prefixes": {**PREFIXES, "score_prefix": True},
    "prefixes, markers, expansion": {**PREFIXES, **MARKERS, "score_prefix": True, "query_expansion": "mask"},
    "prefixes that do not score": PREFIXES,
    "specials that do not score": {**MARKERS, "query_expansion": "mask", "score_special_tokens": False},
}


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the family's kind on the texts; `<s> text </s>`, pad 1, markers in the vocabulary."""
    shared = {"special_tokens": SPECIALS, "show_progress": False}
    if family == "bert":
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer, backend.decoder = trainers.WordPieceTrainer(vocab_size=300, **shared), decoders.WordPiece()
    elif family == "xlm-roberta":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", **shared)
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **shared)
    backend.train_from_iterator([*ENGLISH, *FINNISH, " ".join(string.punctuation)], trainer)
    # Training makes its special tokens special; markers are ordinary entries of the vocabulary, as BERT's [unused0].
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in ("[Q]", "[D]")]
    backend = Tokenizer.from_str(json.dumps(content))
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **names, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )


def family_config(family: str, vocab_size: int) -> PreTrainedConfig:
    """Return an encoder of two layers and 32 dimensions."""
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    }
    if family == "modernbert":
        return ModernBertConfig(**sizes, bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2)
    return {"bert": BertConfig, "xlm-roberta": XLMRobertaConfig}[family](**sizes)


def make_model(family: str, settings: str) -> DrDecrModel:
    """Return a seeded student of a family with its processor."""
    torch.manual_seed(0)
    tokenizer = family_tokenizer(family)
    processor = DrDecrProcessor(tokenizer, query_length=16, document_length=28, **SETTINGS[settings])
    config = DrDecrConfig(encoder_config=family_config(family, len(tokenizer)), embedding_dim=16)
    model = DrDecrModel(config).eval()
    model.processor = processor
    if settings.endswith("language-neutral"):
        initialise_projection(model, processor, {"en": ENGLISH, "fi": FINNISH}, "language_neutral")
    return model


def make_checkpoint(folder: Path, model: DrDecrModel) -> None:
    """Write `folder/model`, the embeddings that drdecr gives, and what saving warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder / "model")
    limits = loader_limits(model.processor)  # each warning is told once a process
    expected = {"texts": TEXTS, "queries": model.encode_queries(TEXTS), "documents": model.encode_documents(TEXTS)}
    torch.save(expected, folder / "expected.pt")
    (folder / "limits.json").write_text(json.dumps(limits, indent=2))


def cases() -> Iterator[tuple[str, str]]:
    """Yield family and settings; ModernBERT's norms have no bias that could take the mean token."""
    for family in ("bert", "xlm-roberta", "modernbert"):
        for settings in SETTINGS:
            if not (family == "modernbert" and settings.endswith("language-neutral")):
                yield family, settings


if __name__ == "__main__":
    for family, settings in cases():
        make_checkpoint(Path(sys.argv[1]) / family / settings.replace(", ", "+"), make_model(family, settings))
