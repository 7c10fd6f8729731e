"""One folder, four loaders: what is saved for other libraries, and what saving says about them."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor, AutoTokenizer, BertModel

from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, interop_drdecr
from drdecr.modeling_drdecr.interop_drdecr import loader_limits

LOADERS = Path(__file__).parents[2] / "benchmarks" / "loaders"


def script(name):
    specification = importlib.util.spec_from_file_location(name, LOADERS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


make, compare = script("make_checkpoints"), script("compare")


@pytest.mark.parametrize(("family", "settings"), list(make.cases()))
def test_sentence_transformers_gives_equal_embeddings_or_saving_has_warned(family, settings, tmp_path):
    pytest.importorskip("sentence_transformers", minversion="6.0")
    make.make_checkpoint(tmp_path, make.make_model(family, settings))
    limits = [limit for limit in json.loads((tmp_path / "limits.json").read_text()) if "sentence-tr" in limit]
    if family == "modernbert":  # its tokens may be parts of a sign; the texts hold no such sign
        limits = [limit for limit in limits if "into bytes" not in limit]
    found = compare.compare(compare.with_sentence_transformers, tmp_path)
    assert (set(found.values()) == {"equal"}) == (not limits), (found, limits)


def test_sentence_transformers_gives_equal_embeddings_through_our_own_code_too(tmp_path):
    library = pytest.importorskip("sentence_transformers", minversion="6.0")
    model = make.make_model("bert", "prefixes, markers, expansion")
    model.save_pretrained(tmp_path)
    theirs = library.MultiVectorEncoder(str(tmp_path), device="cpu", trust_remote_code=True)
    for one, other in zip(theirs.encode_query(make.TEXTS), model.encode_queries(make.TEXTS), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", ["defaults", "markers, expansion"])
def test_loaders_that_run_no_code_find_an_encoder_and_a_tokenizer(settings, tmp_path):
    make.make_model("bert", settings).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path, trust_remote_code=False)) is BertModel
    plain = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False)
    assert plain("the sea")["input_ids"] == AutoTokenizer.from_pretrained(tmp_path)("the sea")["input_ids"]


def test_a_folder_for_transformers_4_opens_in_ours_and_is_saved_again(tmp_path):
    """With markers `config.json` is the encoder's own, and names the file that is ours."""
    model = make.make_model("bert", "markers, expansion")
    model.save_pretrained(tmp_path / "one")
    assert "auto_map" not in json.loads((tmp_path / "one" / "config.json").read_text())
    again = AutoModel.from_pretrained(tmp_path / "one", trust_remote_code=True)
    assert type(again).__name__ == "DrDecrModel"
    again.save_pretrained(tmp_path / "two")
    names = [path.name for path in (tmp_path / "one").rglob("*") if path.name != "tokenizer_config.json"]
    for path in (tmp_path / "one" / name for name in names):
        if path.is_file() and path.suffix in (".json", ".metadata"):
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    own = DrDecrModel.from_pretrained(tmp_path / "two")
    for one, other in zip(own.encode_queries(make.TEXTS), model.encode_queries(make.TEXTS), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_folder_saved_without_markers_keeps_nothing_of_the_one_with(tmp_path):
    make.make_model("bert", "markers, expansion").save_pretrained(tmp_path)
    make.make_model("bert", "defaults").save_pretrained(tmp_path)
    assert not (tmp_path / "artifact.metadata").exists()
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    assert list(tmp_path.glob("config.5*")) == []


def test_the_projection_is_the_trainers_own_state(tmp_path):
    """A trainer hands over a gathered state; the model's own parameters may be shards."""
    model = make.make_model("bert", "defaults")
    state = {**model.state_dict(), "linear.weight": torch.ones(16, 32)}
    model.save_pretrained(tmp_path, state_dict=state)
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "1_Dense" / "model.safetensors")["linear.weight"], torch.ones(16, 32))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"score_prefix": False, "query_prefix": "query: "}, {"sentence-transformers", "PyLate", "Stanford ColBERT"}),
        ({"score_prefix": True, "query_prefix": "query: "}, {"PyLate", "Stanford ColBERT"}),
        ({"score_special_tokens": False}, {"sentence-transformers", "PyLate", "Stanford ColBERT"}),
        ({"query_expansion": "none"}, {"Stanford ColBERT"}),
        ({"query_marker": None}, {"Stanford ColBERT"}),
        ({"skip_punctuation": False}, {"Stanford ColBERT"}),
        ({"legacy_primeqa": True}, {"sentence-transformers", "PyLate", "Stanford ColBERT"}),
        ({}, set()),
    ],
)
def test_saving_names_loader_setting_and_effect(settings, expected, tmp_path, monkeypatch):
    """BERT's list of signs holds the ASCII signs and nothing else here, so Stanford's list is ours."""
    monkeypatch.setattr(interop_drdecr, "_past_warnings", set())
    model = make.make_model("bert", "markers, expansion")
    given = {"query_expansion": "mask", **make.MARKERS, **settings}
    if settings.get("legacy_primeqa"):
        given["query_expansion"] = "none"
    model.processor = DrDecrProcessor(model.processor.tokenizer, query_length=16, document_length=28, **given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.save_pretrained(tmp_path)
    said = [line[2:] for item in caught for line in str(item.message).splitlines() if line.startswith("- ")]
    assert said == loader_limits(model.processor)
    assert {name for line in said for name in line.split(":")[0].split(", ")} == expected
    assert all(any(name in line for name in (*settings, "document_prefix")) for line in said)


def test_each_difference_is_told_once_a_process_and_always_at_first(tmp_path, monkeypatch):
    """A training saves many checkpoints: two equal ones, one with other settings, and the first again."""
    monkeypatch.setattr(interop_drdecr, "_past_warnings", set())
    model, other = make.make_model("bert", "defaults"), make.make_model("bert", "prefixes that do not score")
    told = []
    for saved in (model, model, other, model):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            saved.save_pretrained(tmp_path)
        told.append([str(item.message) for item in caught if "Other libraries" in str(item.message)])
    assert [len(messages) for messages in told] == [1, 0, 1, 0]
    assert told[0] != told[2]
