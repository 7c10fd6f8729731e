"""Checkpoints of other libraries, built here from their description, give the embeddings that their own forward gives."""

import contextlib
import json
import os
import pickle
import string
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from typer.testing import CliRunner

from drdecr.cli.main import app
from drdecr.hub import convert as convert_module
from drdecr.hub.convert import convert
from drdecr.modeling_drdecr import DrDecrModel

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
    "pad_token_id": 1,
}
TEXT = "what is the capital ?"
IDS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "[Q] ": 5, "[D] ": 6, "[unused0]": 7, "[unused1]": 8}
WORDS = ["what", "is", "the", "capital", *string.punctuation]


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    names = [*IDS, *WORDS]
    names += [f"w{index}" for index in range(size - len(names))]
    backend = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    special = {"cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **special, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )


def ids_of(text: str) -> list[int]:
    return [len(IDS) + WORDS.index(word) for word in text.split()]


def embed(encoder, linear: torch.Tensor, ids: list[int], seen: int) -> torch.Tensor:
    """The plain forward of ColBERT: encoder, projection, norm; only the first `seen` tokens are looked at."""
    mask = torch.tensor([[1] * seen + [0] * (len(ids) - seen)])
    with torch.no_grad():
        hidden = encoder(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden @ linear.T, dim=-1)


@pytest.fixture
def bert():
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=64, **SIZES)).eval(), torch.randn(16, 32)


@pytest.fixture
def xlmr():
    torch.manual_seed(0)
    return XLMRobertaModel(XLMRobertaConfig(vocab_size=9760, **SIZES)).eval(), torch.randn(16, 32)


@pytest.fixture
def dnn(tmp_path, xlmr):
    """PrimeQA's checkpoint: a pickle with optimizer state, `module.` before each name, beside a folder of the encoder."""
    encoder, linear = xlmr
    encoder.config.save_pretrained(tmp_path / "base")
    tokenizer_of(9760).save_pretrained(tmp_path / "base")
    weights = {f"module.roberta.{name}": tensor for name, tensor in encoder.state_dict().items()}
    weights["module.linear.weight"] = linear
    content = {
        "epoch": 0,
        "batch": 7,
        "model_state_dict": weights,
        "optimizer_state_dict": {"state": {0: {"step": 3}}, "param_groups": []},
        "arguments": {"query_maxlen": 12, "doc_maxlen": 20, "model": str(tmp_path / "base"), "similarity": "l2"},
    }
    (tmp_path / "whitebox").mkdir()
    torch.save(content, tmp_path / "whitebox" / "DrDecr.dnn")
    return tmp_path / "whitebox" / "DrDecr.dnn"


@pytest.fixture
def stanford(tmp_path, bert):
    encoder, linear = bert
    folder = tmp_path / "stanford"
    encoder.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    tokenizer_of(64).save_pretrained(folder)
    weights = {f"bert.{name}": tensor.clone() for name, tensor in encoder.state_dict().items()}
    save_file({**weights, "linear.weight": linear}, folder / "model.safetensors", metadata={"format": "pt"})
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 12, "doc_maxlen": 20}
    (folder / "artifact.metadata").write_text(json.dumps({**metadata, "dim": 16, "attend_to_mask_tokens": False}))
    return folder


@pytest.fixture
def pylate(tmp_path, bert):
    encoder, linear = bert
    folder = tmp_path / "pylate"
    encoder.save_pretrained(folder)
    tokenizer_of(64).save_pretrained(folder)
    (folder / "1_Dense").mkdir()
    dense = {"in_features": 32, "out_features": 16, "bias": False, "use_residual": False}
    identity = "torch.nn.modules.linear.Identity"
    (folder / "1_Dense" / "config.json").write_text(json.dumps({**dense, "activation_function": identity}))
    save_file({"linear.weight": linear}, folder / "1_Dense" / "model.safetensors")
    kinds = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 12, "document_length": 20}
    settings |= {"do_query_expansion": False, "attend_to_expansion_tokens": False, "skiplist_words": []}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "ColBERT", **settings}))
    return folder


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("given", ["the file", "its folder"])
def test_primeqa_reads_as_its_authors_read_it(dnn, xlmr, tmp_path, given):
    notes = convert(dnn if given == "the file" else dnn.parent, tmp_path / "out")
    model = DrDecrModel.from_pretrained(tmp_path / "out")
    row = [0, 9748, *ids_of(TEXT), 2]
    expected = embed(*xlmr, row + [1] * (12 - len(row)), seen=len(row))
    same(model.encode_queries([TEXT])[0], expected[1:])  # `<s>` has id 0 and is masked, pads are not
    passage = embed(*xlmr, [0, 9749, *ids_of(TEXT), 2], seen=8)
    same(model.encode_documents([TEXT])[0], passage[[1, 2, 3, 4, 5, 7]])  # the sign is in the list
    assert any("roberta.pooler.dense.weight" in note for note in notes)
    assert any("L2" in note for note in notes)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_stanford_fills_queries_with_masks(stanford, bert, tmp_path, weights):
    if weights == "pytorch_model.bin":
        torch.save(load_file(stanford / "model.safetensors"), stanford / weights)
        (stanford / "model.safetensors").unlink()
    convert(stanford, tmp_path / "out")
    model = DrDecrModel.from_pretrained(tmp_path / "out")
    row = [0, 7, *ids_of(TEXT), 2]
    same(model.encode_queries([TEXT])[0], embed(*bert, row + [4] * (12 - len(row)), seen=len(row)))
    passage = embed(*bert, [0, 8, *ids_of(TEXT), 2], seen=8)
    same(model.encode_documents([TEXT])[0], passage[[0, 1, 2, 3, 4, 5, 7]])
    assert model.processor.document_length == 20


def test_pylate_reads_markers_with_a_space_and_keeps_signs(pylate, bert, tmp_path):
    convert(pylate, tmp_path / "out")
    model = DrDecrModel.from_pretrained(tmp_path / "out")
    same(model.encode_queries([TEXT])[0], embed(*bert, [0, 5, *ids_of(TEXT), 2], seen=8))
    same(model.encode_documents([TEXT])[0], embed(*bert, [0, 6, *ids_of(TEXT), 2], seen=8))


def test_two_linear_layers_become_their_product(pylate, bert, tmp_path):
    second = torch.randn(8, 16)
    (pylate / "2_Dense").mkdir()
    dense = json.loads((pylate / "1_Dense" / "config.json").read_text())
    (pylate / "2_Dense" / "config.json").write_text(json.dumps({**dense, "in_features": 16, "out_features": 8}))
    save_file({"linear.weight": second}, pylate / "2_Dense" / "model.safetensors")
    modules = json.loads((pylate / "modules.json").read_text())
    (pylate / "modules.json").write_text(json.dumps([*modules, {**modules[1], "path": "2_Dense"}]))
    convert(pylate, tmp_path / "out")
    model = DrDecrModel.from_pretrained(tmp_path / "out")
    expected = embed(bert[0], second @ bert[1], [0, 5, *ids_of(TEXT), 2], seen=8)
    torch.testing.assert_close(model.encode_queries([TEXT])[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("odd", [{"bias": True}, {"activation_function": "torch.nn.Tanh"}, {"use_residual": True}])
def test_a_projection_that_is_no_matrix_is_refused(pylate, tmp_path, odd):
    path = pylate / "1_Dense" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    with pytest.raises(ValueError, match="without bias, activation and residual"):
        convert(pylate, tmp_path / "out")


def test_a_masked_language_model_gets_a_new_projection(tmp_path):
    torch.manual_seed(0)
    whole = BertForMaskedLM(BertConfig(vocab_size=64, **SIZES)).eval()
    whole.save_pretrained(tmp_path / "in")
    tokenizer_of(64).save_pretrained(tmp_path / "in")
    notes = convert(tmp_path / "in", tmp_path / "out", embedding_dim=8)
    model = DrDecrModel.from_pretrained(tmp_path / "out")
    same(model.encode_queries([TEXT])[0], embed(whole.bert, model.linear.weight, [0, *ids_of(TEXT), 2], seen=7))
    assert model.linear.weight.shape == (8, 32)
    assert "random" in notes[0]
    assert any("cls.predictions" in note for note in notes)


def test_sentence_transformers_there_and_back(pylate, tmp_path):
    """What the library saves itself is read; what is written for it, it reads."""
    library = pytest.importorskip("sentence_transformers", minversion="6.0")
    theirs = library.MultiVectorEncoder(str(pylate), device="cpu")
    theirs.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    convert(tmp_path / "theirs", tmp_path / "ours")
    model = DrDecrModel.from_pretrained(tmp_path / "ours")
    texts = [TEXT, "the", "capital , the"]
    convert(tmp_path / "ours", tmp_path / "back", to="sentence-transformers")
    back = library.MultiVectorEncoder(str(tmp_path / "back"), device="cpu")
    for other in (theirs, back):
        for one, two in zip(model.encode_queries(texts), other.encode_query(texts), strict=True):
            same(one, two)
        for one, two in zip(model.encode_documents(texts), other.encode_document(texts), strict=True):
            same(one, two)


@pytest.mark.parametrize("to", ["stanford", "pylate", "sentence-transformers"])
def test_there_and_back_changes_nothing_and_leaves_no_file_of_ours(stanford, tmp_path, to):
    convert(stanford, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs", to=to)
    convert(tmp_path / "theirs", tmp_path / "again")
    names = {path.name for path in (tmp_path / "theirs").rglob("*")}
    assert not any("drdecr" in name or name == "processor_config.json" for name in names)
    assert "drdecr" not in (tmp_path / "theirs" / "config.json").read_text()
    one, two = (DrDecrModel.from_pretrained(tmp_path / name) for name in ("ours", "again"))
    for encode in ("encode_queries", "encode_documents"):
        for first, second in zip(getattr(one, encode)([TEXT, "the"]), getattr(two, encode)([TEXT, "the"]), strict=True):
            same(first, second)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_hostile_pickle_is_refused_and_runs_nothing(dnn, stanford, tmp_path, writer):
    sign = tmp_path / "was here"
    for path in (dnn, stanford / "pytorch_model.bin"):
        (stanford / "model.safetensors").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        writer({"model_state_dict": {"linear.weight": Hostile(os.fspath(sign))}}, path)
        with pytest.raises(ValueError, match="nothing of it was executed"):
            convert(path if path.suffix == ".dnn" else stanford, tmp_path / "out")
        assert not sign.exists()
        assert not (tmp_path / "out").exists()
    with contextlib.suppress(RuntimeError):  # a bare pickle is no checkpoint, which torch finds out too late
        torch.load(path, weights_only=False)  # it does what it says where it is trusted
    assert sign.exists()


def test_an_encoder_comes_back_as_it_was(tmp_path, bert):
    """A bare encoder becomes ours and a bare encoder again: the same weights, the same tokens, nothing of ours."""
    encoder, _ = bert
    encoder.save_pretrained(tmp_path / "in")
    tokenizer_of(64).save_pretrained(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "ours")
    notes = convert(tmp_path / "ours", tmp_path / "out", to="encoder")
    back = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=False)
    weights = {name: weight for name, weight in encoder.state_dict().items() if not name.startswith("pooler.")}
    found = {name: weight for name, weight in back.state_dict().items() if not name.startswith("pooler.")}
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    ids = [AutoTokenizer.from_pretrained(tmp_path / name)(TEXT)["input_ids"] for name in ("in", "out")]
    assert ids[0] == ids[1] == [0, *ids_of(TEXT), 2]
    assert "drdecr" not in (tmp_path / "out" / "config.json").read_text()
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert any("linear.weight" in note for note in notes)


def test_every_weight_that_does_not_fit_is_named(stanford, tmp_path):
    weights = load_file(stanford / "model.safetensors")
    del weights["bert.encoder.layer.0.output.dense.bias"]
    weights["bert.encoder.layer.7.output.dense.bias"] = torch.ones(3)
    weights["bert.embeddings.word_embeddings.weight"] = torch.ones(9, 32)
    save_file(weights, stanford / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit BertModel") as raised:
        convert(stanford, tmp_path / "out")
    said = str(raised.value)
    assert "missing: bert.encoder.layer.0.output.dense.bias" in said
    assert "unexpected: bert.encoder.layer.7.output.dense.bias" in said
    assert "bert.embeddings.word_embeddings.weight (9, 32) instead of (64, 32)" in said


def test_a_destination_is_replaced_only_when_asked_and_only_as_a_whole(stanford, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="--overwrite"):
        convert(stanford, tmp_path / "out")

    def interrupted(folder, model):
        model.save_pretrained(folder)
        raise OSError("disk full")

    monkeypatch.setitem(convert_module.WRITERS, "drdecr", interrupted)
    with pytest.raises(OSError, match="disk full"):
        convert(stanford, tmp_path / "out", overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    convert(stanford, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "stanford"]  # nothing half-written stays


def test_what_cannot_be_converted_says_why(stanford, tmp_path):
    plain = tmp_path / "plain"
    BertModel(BertConfig(vocab_size=64, **SIZES)).save_pretrained(plain)
    tokenizer_of(64).save_pretrained(plain)
    with pytest.raises(ValueError, match="needs a query marker"):
        convert(plain, tmp_path / "out", to="stanford")
    with pytest.raises(ValueError, match="expected one of drdecr"):
        convert(plain, tmp_path / "out", to="gguf")
    with pytest.raises(ValueError, match=r"config\.json"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="holds the source"):
        convert(stanford, tmp_path, overwrite=True)


def test_the_command_line_prints_the_notes(stanford, tmp_path):
    result = CliRunner().invoke(app, ["model", "convert", str(stanford), str(tmp_path / "out"), "--to", "pylate"])
    assert result.exit_code == 0, result.output
    assert "left out" in result.output
    assert (tmp_path / "out" / "1_Dense" / "model.safetensors").exists()
