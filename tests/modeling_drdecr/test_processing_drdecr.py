"""Texts to tokens: who is looked at, who scores, who may be aligned."""

import json
import string

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from drdecr.modeling_drdecr import DrDecrProcessor

MASKS = ("attention_mask", "scoring_mask", "text_mask")
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
LONG = " ".join(["the king of paris"] * 20)


def tokens(processor: DrDecrProcessor, batch, row: int = 0, mask: str | None = None) -> list[str]:
    """Return a row's tokens, or those that a mask lets through."""
    ids = batch["input_ids"][row]
    return processor.tokenizer.convert_ids_to_tokens(ids[batch[mask][row]] if mask else ids)


def unigram_tokenizer(fillers: int = 0) -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer: "▁" stands for the space, some signs have a piece with it and some do not."""
    pieces = ["▁hello", "▁world", "▁,", ",", "▁", ".", "x", "▁?!", "▁a", *(f"▁filler{n}" for n in range(fillers))]
    scores = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -99.0), *((piece, -1.0) for piece in pieces)]
    backend = Tokenizer(models.Unigram(scores, unk_id=3))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of one merge and without tokens around the text: most signs beyond ASCII are several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(["<pad>", "<unk>", *alphabet, "Ġ,"])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", ",")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def test_a_marker_stands_after_the_first_special_token(tiny_processor):
    queries = tiny_processor.process_queries(["what is paris ?"])
    documents = tiny_processor.process_documents(["paris is a city ."])
    assert tokens(tiny_processor, queries) == ["<s>", "[Q]", "what", "is", "paris", "?", "</s>"]
    assert tokens(tiny_processor, documents) == ["<s>", "[D]", "paris", "is", "a", "city", ".", "</s>"]


def test_a_marker_may_be_given_by_its_id(tiny_tokenizer, tiny_processor):
    by_id = DrDecrProcessor(tiny_tokenizer, query_marker=5, document_marker=6)
    for process in ("process_queries", "process_documents"):
        one, other = getattr(by_id, process)(["paris"]), getattr(tiny_processor, process)(["paris"])
        assert torch.equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize("marker", [None, "[Q]"])
@pytest.mark.parametrize("prefix", ["", "what : "])
def test_lengths_count_special_tokens_marker_and_prefix(tiny_tokenizer, marker, prefix):
    processor = DrDecrProcessor(tiny_tokenizer, 9, 15, marker, marker, prefix, prefix)
    for batch, length in ((processor.process_queries([LONG]), 9), (processor.process_documents([LONG]), 15)):
        found = tokens(processor, batch)
        head = ["<s>", *([marker] if marker else []), *(["what", "<unk>"] if prefix else [])]
        assert len(found) == length
        assert found[: len(head)] == head
        assert found[len(head) : -1] == LONG.split()[: length - len(head) - 1]
        assert found[-1] == "</s>"


def test_a_batch_is_as_long_as_its_longest_text(tiny_processor):
    batch = tiny_processor.process_documents(["paris", "the king of france"])
    assert batch["input_ids"].shape == (2, 7)
    assert batch["input_ids"].dtype == torch.int64
    assert all(batch[mask].dtype == torch.bool and batch[mask].shape == (2, 7) for mask in MASKS)


@pytest.mark.parametrize("score_special_tokens", [True, False])
def test_padding_counts_nowhere(tiny_tokenizer, score_special_tokens):
    processor = DrDecrProcessor(tiny_tokenizer, score_special_tokens=score_special_tokens)
    for batch in (processor.process_queries(["a", LONG]), processor.process_documents(["a", LONG])):
        padding = batch["input_ids"] == processor.tokenizer.pad_token_id
        assert padding[0].sum() > 20
        assert not padding[1].any()
        assert torch.equal(batch["attention_mask"], ~padding)
        assert not any((batch[mask] & padding).any() for mask in MASKS)


def test_a_row_is_the_same_alone_and_beside_a_longer_one(tiny_processor):
    alone, beside = tiny_processor.process_queries(["a sea"]), tiny_processor.process_queries(["a sea", LONG])
    for name in ("input_ids", *MASKS):
        assert torch.equal(alone[name][0], beside[name][0, : alone[name].shape[1]])


@pytest.mark.parametrize("score_special_tokens", [True, False])
def test_special_tokens_and_markers_score_if_asked_to(tiny_tokenizer, score_special_tokens):
    processor = DrDecrProcessor(
        tiny_tokenizer, query_marker="[Q]", document_marker="[D]", score_special_tokens=score_special_tokens
    )
    for batch, marker in (
        (processor.process_queries(["a sea"]), "[Q]"),
        (processor.process_documents(["a sea"]), "[D]"),
    ):
        expected = ["<s>", marker, "a", "sea", "</s>"] if score_special_tokens else ["a", "sea"]
        assert tokens(processor, batch, mask="scoring_mask") == expected
        assert tokens(processor, batch, mask="text_mask") == ["a", "sea"]


@pytest.mark.parametrize("score_prefix", [True, False])
def test_prefix_tokens_score_if_asked_to_and_are_never_text(tiny_tokenizer, score_prefix):
    processor = DrDecrProcessor(
        tiny_tokenizer, query_prefix="what ! ", document_prefix="city ! ", score_prefix=score_prefix
    )
    queries, documents = processor.process_queries(["what is"]), processor.process_documents(["city is"])
    assert tokens(processor, queries) == ["<s>", "what", "!", "what", "is", "</s>"]
    assert tokens(processor, queries, mask="text_mask") == ["what", "is"]
    assert tokens(processor, documents, mask="text_mask") == ["city", "is"]
    prefix = ["what", "!"] if score_prefix else []
    assert tokens(processor, queries, mask="scoring_mask") == ["<s>", *prefix, "what", "is", "</s>"]
    prefix = ["city"] if score_prefix else []  # punctuation of a document does not score, wherever it stands
    assert tokens(processor, documents, mask="scoring_mask") == ["<s>", *prefix, "city", "is", "</s>"]


def test_punctuation_scores_in_queries_and_not_in_documents(tiny_tokenizer, tiny_processor):
    text = "paris , the sea !"
    whole = ["paris", ",", "the", "sea", "!"]
    queries, documents = tiny_processor.process_queries([text]), tiny_processor.process_documents([text])
    assert tokens(tiny_processor, queries, mask="scoring_mask") == ["<s>", "[Q]", *whole, "</s>"]
    assert tokens(tiny_processor, documents, mask="scoring_mask") == ["<s>", "[D]", "paris", "the", "sea", "</s>"]
    assert tokens(tiny_processor, documents, mask="text_mask") == whole  # it is still text, and looked at
    assert documents["attention_mask"].all()
    keeping = DrDecrProcessor(tiny_tokenizer, skip_punctuation=False)
    kept = keeping.process_documents([text])
    assert tokens(keeping, kept, mask="scoring_mask") == ["<s>", *whole, "</s>"]


def test_punctuation_that_the_vocabulary_lacks_is_still_punctuation(tiny_processor):
    found = tiny_processor.process_documents(["paris ‽ zürich 。"])
    words = tiny_processor.tokenizer.convert_ids_to_tokens(found["input_ids"][0].tolist())
    assert words == ["<s>", "[D]", "paris", "<unk>", "<unk>", "<unk>", "</s>"]
    assert found["scoring_mask"][0].tolist() == [True, True, True, False, True, False, True]


def test_punctuation_is_known_by_its_characters_in_a_sentencepiece_vocabulary():
    processor = DrDecrProcessor(unigram_tokenizer(), score_special_tokens=False)
    batch = processor.process_documents(["hello , x, world. ?!"])
    assert tokens(processor, batch)[1:-1] == ["▁hello", "▁,", "▁", "x", ",", "▁world", ".", "▁?!"]
    assert tokens(processor, batch, mask="scoring_mask") == ["▁hello", "x", "▁world"]


def test_punctuation_is_known_by_its_characters_in_a_byte_vocabulary():
    processor = DrDecrProcessor(byte_tokenizer())
    text = "a ,é؟。ك!"  # an Arabic question mark of two bytes, an ideographic full stop of three
    batch = processor.process_documents([text])
    assert batch["input_ids"].shape == (1, 1 + 1 + 2 + 2 + 3 + 2 + 1)
    scoring = batch["scoring_mask"][0].tolist()
    assert scoring == [True, False, *[True] * 2, *[False] * 5, *[True] * 2, False]
    assert processor.tokenizer.decode(batch["input_ids"][0][batch["scoring_mask"][0]]) == "aéك"


def test_expansion_fills_queries_with_mask_tokens_that_score_and_are_not_looked_at(tiny_tokenizer):
    processor = DrDecrProcessor(tiny_tokenizer, query_length=8, query_expansion="mask", score_special_tokens=False)
    batch = processor.process_queries(["a sea ?", LONG])
    assert tokens(processor, batch) == ["<s>", "a", "sea", "?", "</s>", "<mask>", "<mask>", "<mask>"]
    assert batch["attention_mask"][0].tolist() == [True] * 5 + [False] * 3
    assert tokens(processor, batch, mask="scoring_mask") == ["a", "sea", "?", "<mask>", "<mask>", "<mask>"]
    assert tokens(processor, batch, mask="text_mask") == ["a", "sea", "?"]
    assert batch["attention_mask"][1].all()
    assert "<mask>" not in tokens(processor, batch, row=1)
    documents = processor.process_documents(["a sea", "a"])
    assert tokens(processor, documents, row=1) == ["<s>", "a", "</s>", "<pad>"]


def test_expansion_is_looked_at_if_asked_for(tiny_tokenizer):
    processor = DrDecrProcessor(tiny_tokenizer, query_expansion="mask", attend_to_expansion=True)
    batch = processor.process_queries(["a sea"])
    assert batch["attention_mask"].shape == (1, 32)
    assert batch["attention_mask"].all()
    assert tokens(processor, batch, mask="text_mask") == ["a", "sea"]


def test_legacy_primeqa_reproduces_the_authors_masks_and_markers():
    processor = DrDecrProcessor(unigram_tokenizer(fillers=9800), legacy_primeqa=True)
    queries = processor.process_queries(["hello world", "hello"])
    ids = queries["input_ids"]
    assert ids.shape == (2, 32)
    assert ids[0].tolist() == [0, 9748, 4, 5, 2, *[1] * 27]
    assert torch.equal(queries["scoring_mask"], ids != 0)  # <s> does not score and padding does
    assert queries["attention_mask"][0].tolist() == [True] * 5 + [False] * 27
    documents = processor.process_documents(["hello , x, world.", "x"])
    assert tokens(processor, documents)[2:] == ["▁hello", "▁,", "▁", "x", ",", "▁world", ".", "</s>"]
    assert documents["input_ids"][:, 1].tolist() == [9749, 9749]
    # "▁," is the first piece of ","; "▁" that of "."; "<unk>" or "▁" that of all the other signs.
    firsts = {processor.tokenizer.tokenize(sign)[0] for sign in string.punctuation}
    assert {"▁,", "▁"} <= firsts
    assert firsts.isdisjoint({",", ".", "▁hello", "x"})
    scoring = [["▁hello", "x", ",", "▁world", ".", "</s>"], ["x", "</s>", *["<pad>"] * 5]]
    for row, expected in enumerate(scoring):
        assert tokens(processor, documents, row, "scoring_mask")[1:] == expected
    assert torch.equal(documents["attention_mask"], documents["input_ids"] != 1)


def test_an_empty_text_is_its_special_tokens(tiny_processor):
    batch = tiny_processor.process_documents(["", "a"])
    assert tokens(tiny_processor, batch, mask="scoring_mask") == ["<s>", "[D]", "</s>"]
    assert not batch["text_mask"][0].any()
    nothing = DrDecrProcessor(byte_tokenizer()).process_documents([""])  # a tokenizer without special tokens
    assert nothing["input_ids"].dtype == torch.int64
    assert all(nothing[mask].dtype == torch.bool and nothing[mask].shape == (1, 1) for mask in MASKS)
    assert nothing["attention_mask"].all()  # an encoder needs a token to read


def test_a_saved_processor_is_loaded_with_every_setting(tiny_tokenizer, tmp_path):
    settings = {
        "query_length": 14,
        "document_length": 15,
        "query_marker": "[Q]",
        "document_marker": 6,
        "query_prefix": "what ! ",
        "document_prefix": "city ! ",
        "score_special_tokens": False,
        "score_prefix": True,
        "skip_punctuation": False,
        "query_expansion": "mask",
        "attend_to_expansion": True,
    }
    processor = DrDecrProcessor(tiny_tokenizer, **settings)
    processor.save_pretrained(tmp_path)
    loaded = DrDecrProcessor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert json.loads((tmp_path / "processor_config.json").read_text()).items() >= settings.items()
    for process in ("process_queries", "process_documents"):
        before, after = getattr(processor, process)(["a sea ?", LONG]), getattr(loaded, process)(["a sea ?", LONG])
        assert all(torch.equal(before[name], after[name]) for name in ("input_ids", *MASKS))


def test_use_leaves_no_trace_in_the_saved_files(tiny_processor, tmp_path):
    tiny_processor.save_pretrained(tmp_path / "new")
    tiny_processor.process_queries([LONG])
    tiny_processor.process_documents([LONG])
    tiny_processor.save_pretrained(tmp_path / "used")
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes() == (tmp_path / "used" / path.name).read_bytes()
    assert json.loads((tmp_path / "used" / "tokenizer.json").read_text())["truncation"] is None


def test_a_bare_encoders_tokenizer_gives_default_settings_and_no_tokenizer_none(tiny_tokenizer, tmp_path):
    assert DrDecrProcessor.load_if_there(tmp_path) is None
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = DrDecrProcessor.load_if_there(tmp_path)
    assert (loaded.query_length, loaded.document_length, loaded.query_marker) == (32, 180, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_marker": "[X]"}, r"Marker '\[X\]' is not in the tokenizer's vocabulary\. Choose"),
        ({"document_marker": 9999}, "Marker 9999 is not in the tokenizer's vocabulary"),
        ({"document_marker": -1}, "Marker -1 is not in the tokenizer's vocabulary"),
        ({"query_length": 2}, "query_length: expected more than the 2 tokens"),
        ({"document_length": 3, "document_marker": "[D]"}, "document_length: expected more than the 3 tokens"),
        ({"query_length": 4, "query_prefix": "a a"}, "query_length: expected more than the 4 tokens"),
        ({"query_expansion": "pad"}, "query_expansion: expected 'none' or 'mask', got 'pad'"),
        ({"legacy_primeqa": True}, "Marker 9748 is not in the tokenizer's vocabulary"),
    ],
)
def test_settings_that_cannot_work_are_refused(tiny_tokenizer, settings, message):
    with pytest.raises(ValueError, match=message):
        DrDecrProcessor(tiny_tokenizer, **settings)


def test_tokenizers_that_cannot_serve_are_refused(tiny_tokenizer):
    tiny_tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"needs a tokenizer with a mask token\. Use query_expansion='none'"):
        DrDecrProcessor(tiny_tokenizer, query_expansion="mask")
    tiny_tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"a tokenizer with a padding token\. Set `tokenizer\.pad_token`"):
        DrDecrProcessor(tiny_tokenizer)


@pytest.mark.parametrize(
    ("texts", "came"),
    [
        ([], "an empty list"),
        ("paris", "str"),
        (None, "NoneType"),
        (7, "int"),
        (["paris", 7], "a list with 7"),
        (["paris", None], "a list with None"),
        ([["paris"]], r"a list with \['paris'\]"),
    ],
)
@pytest.mark.parametrize("process", ["process_queries", "process_documents"])
def test_what_is_no_list_of_strings_is_refused(tiny_processor, process, texts, came):
    with pytest.raises(ValueError, match=f"non-empty list of strings to tokenise, got {came}. Wrap a single text"):
        getattr(tiny_processor, process)(texts)
