"""The precision of a collection: asked for, gone on with, measured."""

import pytest
import torch

from drdecr.retrieval import StoredIndex
from drdecr.retrieval import encoder as encoding_precision
from drdecr.retrieval.encoder import (
    EncoderChoice,
    bfloat16_copy,
    choose_codec,
    choose_precision,
    encoder_in,
    int8_copy,
    sample_of,
)
from drdecr.retrieval.passages import Document, Splitter
from drdecr.runs.stage import run_stage


@pytest.fixture
def model(recipe_of):
    return str(run_stage(recipe_of("start", stage="initialise")))


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text("".join(f"d-{a}\tthe city {a} is in france .\n" for a in "bcdefgh"))
    return path


def tokens_of(folder):
    index = StoredIndex.open(folder)
    return torch.cat(index.embeddings(sorted(index.passage_ids())))


def test_a_new_folder_is_encoded_as_asked_and_an_index_as_it_was_begun(tmp_path):
    assert choose_precision(None, tmp_path / "new") == "float32"
    assert choose_precision("fastest", tmp_path / "new") == "fastest"
    for name, about, begun in (("old", {}, "float32"), ("narrow", {"precision": "int8"}, "int8")):
        StoredIndex.create(tmp_path / name, dim=8, about=about).close()
        assert [choose_precision(asked, tmp_path / name) for asked in (None, "fastest", begun)] == [begun] * 3
        with pytest.raises(ValueError, match=f"{name}: encoded in {begun}, asked for bfloat16. Leave --precision out"):
            choose_precision("bfloat16", tmp_path / name)
    with pytest.raises(ValueError, match="expected float32, bfloat16, int8 or fastest, got 'int4'"):
        choose_precision("int4", tmp_path / "new")


@pytest.mark.parametrize(("precision", "narrow"), [("int8", int8_copy), ("bfloat16", bfloat16_copy)])
def test_a_model_encodes_in_the_precision_that_is_asked_for(tiny_model, precision, narrow):
    texts = sample_of([Document("d", "the sea . " * 40)], Splitter(passage_tokens=8), tiny_model)
    encoder, found = encoder_in(precision, tiny_model, texts)
    assert found == precision
    expected = narrow(tiny_model, texts) if precision == "int8" else narrow(tiny_model)
    assert torch.equal(torch.cat(encoder.encode_documents(texts)), torch.cat(expected.encode_documents(texts)))
    assert not torch.equal(torch.cat(encoder.encode_documents(texts)), torch.cat(tiny_model.encode_documents(texts)))


def test_a_sample_is_the_first_passages_of_a_collection_of_any_length(tiny_model):
    def endless():
        while True:
            yield Document("d", "the sea . " * 10)

    assert len(sample_of(endless(), Splitter(passage_tokens=8), tiny_model)) == encoding_precision.CODEC_SAMPLE
    assert sample_of([], Splitter(), tiny_model) == []


def test_a_torch_without_int8_says_so(tiny_model, monkeypatch):
    def missing(model, texts):
        raise RuntimeError("NoQEngine")

    monkeypatch.setattr(encoding_precision, "int8_copy", missing)
    with pytest.raises(ValueError, match=r"no such products on this machine \(NoQEngine\). Take float32"):
        encoder_in("int8", tiny_model, ["the sea"])


def test_a_collection_is_encoded_in_int8_and_gone_on_with(call, model, documents, tmp_path):
    assert call("index", "build", model, documents, tmp_path / "exact")[0] == 0
    code, _, errors = call("index", "build", model, documents, tmp_path / "narrow", "--precision", "int8")
    assert code == 0, errors
    assert StoredIndex.open(tmp_path / "narrow").about["precision"] == "int8"
    exact, narrow = tokens_of(tmp_path / "exact"), tokens_of(tmp_path / "narrow")
    assert not torch.equal(exact, narrow)
    assert torch.cosine_similarity(exact, narrow, dim=-1).min() > 0.95
    documents.write_text(documents.read_text() + "d-z\tthe sea\n")
    code, output, errors = call("index", "build", model, documents, tmp_path / "narrow")
    assert code == 0, errors
    assert "1 new" in output
    code, _, errors = call("index", "build", model, documents, tmp_path / "narrow", "--precision", "float32")
    assert code == 1
    assert "encoded in int8, asked for float32" in errors


def test_the_fastest_is_measured_once(call, model, documents, tmp_path, monkeypatch):
    measured = []

    def fastest(reader, texts):
        measured.append(texts)
        return EncoderChoice("bfloat16", bfloat16_copy(reader), {"bfloat16": 1.0, "int8": None}, {"bfloat16": 0.999})

    monkeypatch.setattr(encoding_precision, "fastest_encoder", fastest)
    for _ in range(2):
        assert call("index", "build", model, documents, tmp_path / "index", "--precision", "fastest")[0] == 0
    assert StoredIndex.open(tmp_path / "index").about["precision"] == "bfloat16"
    assert [len(texts) for texts in measured] == [7]


def test_vectors_are_kept_in_int8_as_they_come_and_are_what_a_copy_in_int8_holds(call, model, documents, tmp_path):
    assert call("index", "build", model, documents, tmp_path / "exact")[0] == 0
    code, _, errors = call("index", "build", model, documents, tmp_path / "small", "--codec", "int8")
    assert code == 0, errors
    assert StoredIndex.open(tmp_path / "small").manifest.codec == "int8"
    kept = tokens_of(tmp_path / "small")
    torch.testing.assert_close(kept, tokens_of(tmp_path / "exact"), atol=1 / 250, rtol=0)
    documents.write_text(documents.read_text() + "d-z\tthe sea\n")
    code, output, errors = call("index", "build", model, documents, tmp_path / "small")  # gone on with as begun
    assert "1 new" in output, errors
    code, _, errors = call("index", "build", model, documents, tmp_path / "small", "--codec", "float16")
    assert code == 1
    assert "small: begun with codec int8, asked for float16. Leave --codec out to go on" in errors
    before = tokens_of(tmp_path / "small")
    assert call("index", "compact", tmp_path / "small")[0] == 0
    assert tokens_of(tmp_path / "small").equal(before)
    code, _, errors = call("index", "compress", tmp_path / "small", tmp_path / "smaller", "--codec", "residual2")
    assert code == 1
    assert "got int8 pooled by 1. Give a folder that `drdecr index build` wrote, in float16." in errors


def test_codes_that_are_learned_from_each_segment_are_made_later(call, model, documents, tmp_path):
    code, _, errors = call("index", "build", model, documents, tmp_path / "small", "--codec", "residual2")
    assert code == 1
    assert (
        "expected float16 or int8, got 'residual2'. For residual codes encode into float16, then give: drdecr" in errors
    )
    assert not (tmp_path / "small").exists()
    assert call("index", "build", model, documents, tmp_path / "exact")[0] == 0
    assert choose_codec(None, tmp_path / "exact") == choose_codec("float16", tmp_path / "new") == "float16"
    with pytest.raises(ValueError, match="begun with codec float16, asked for int8"):
        choose_codec("int8", tmp_path / "exact")
