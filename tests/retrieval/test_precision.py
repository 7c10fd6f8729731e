"""Faster models: what int8 changes and what it does not, and what is chosen of what was measured."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, XLMRobertaConfig

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel
from drdecr.modeling_drdecr.processing_drdecr import DrDecrProcessor
from drdecr.retrieval import StoredIndex
from drdecr.retrieval import precision as fast_encoding
from drdecr.retrieval.int8_linear import BLOCK, Int8Linear
from drdecr.retrieval.passages import Document, Splitter
from drdecr.retrieval.precision import (
    SMALLEST_COSINE,
    bfloat16_copy,
    choose,
    encoder_in,
    fastest_encoder,
    first_passages,
    int8_copy,
    resolve_codec,
    resolve_precision,
)

TEXTS = ["the sea", "what is the capital of france", "a king in the city of paris"]


def test_int8_reads_nearly_alike_and_leaves_the_model(tiny_model: DrDecrModel):
    exact = torch.cat(tiny_model.encode_documents(TEXTS))
    narrow = int8_copy(tiny_model)
    found = torch.cat(narrow.encode_documents(TEXTS))
    assert not torch.equal(found, exact)
    assert torch.cosine_similarity(found, exact, dim=-1).min() > 0.99
    assert not any(isinstance(module, nn.Linear) for module in narrow.encoder.modules())
    assert narrow.get_input_embeddings() is tiny_model.get_input_embeddings()
    assert torch.equal(torch.cat(tiny_model.encode_documents(TEXTS)), exact)


def with_outliers(config_type: type, processor: DrDecrProcessor) -> DrDecrModel:
    """Return a random encoder with what trained ones have: a few channels far larger than the others."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    encoder = config_type(vocab_size=64, max_position_embeddings=66, pad_token_id=1, initializer_range=0.1, **sizes)
    model = DrDecrModel(DrDecrConfig(encoder_config=encoder, embedding_dim=16)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("value.weight", "intermediate.dense.weight")):
            parameter.data[[5, 40]] *= 100.0
        if name.endswith("output.dense.weight"):
            parameter.data[:, [5, 40]] /= 100.0
    model.processor = processor
    return model


def per_tensor_copy(model: DrDecrModel) -> DrDecrModel:
    """Return torch's own dynamic int8: one scale for all activations of a layer."""
    narrow = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(
            narrow.encoder, {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, inplace=True
        )
    return narrow


def smallest_cosine(exact: Tensor, narrow: DrDecrModel) -> float:
    return torch.cosine_similarity(torch.cat(narrow.encode_documents(TEXTS)), exact, dim=-1).min().item()


@pytest.mark.parametrize("config_type", [BertConfig, XLMRobertaConfig])
def test_int8_stays_close_where_a_few_channels_are_large(config_type: type, tiny_processor: DrDecrProcessor):
    model = with_outliers(config_type, tiny_processor)
    exact = torch.cat(model.encode_documents(TEXTS))
    per_tensor, plain = smallest_cosine(exact, per_tensor_copy(model)), smallest_cosine(exact, int8_copy(model))
    levelled = smallest_cosine(exact, int8_copy(model, TEXTS))
    assert per_tensor < SMALLEST_COSINE <= levelled
    assert per_tensor < plain < levelled


def test_an_int8_layer_multiplies_each_token_at_its_own_scale():
    torch.manual_seed(0)
    layer = nn.Linear(48, 24)
    inputs = torch.randn(3, 7, 48) * torch.logspace(-3, 3, 7)[:, None]
    expected, found = layer(inputs) - layer.bias, Int8Linear(layer)(inputs) - layer.bias
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert errors.max() < 0.03
    assert torch.equal(Int8Linear(layer)(torch.zeros(2, 48)), layer.bias.detach().expand(2, -1))


def test_a_large_batch_is_multiplied_block_by_block():
    torch.manual_seed(0)
    layer, inputs = nn.Linear(16, 4), torch.randn(2, BLOCK, 16)
    narrow = Int8Linear(layer)
    assert torch.equal(narrow(inputs), torch.stack([narrow(inputs[0]), narrow(inputs[1])]))
    assert torch.allclose(narrow(inputs[0, :3]), layer(inputs[0, :3]), atol=0.05)


def test_no_product_is_cut_off():
    """All 255 and all of the largest weight, of one sign: sums of pairs in 16 bits come nearest to their limit."""
    layer = nn.Linear(64, 8, bias=False)
    layer.weight.data.fill_(0.5)
    assert torch.allclose(Int8Linear(layer)(torch.ones(4, 64)), torch.full((4, 8), 32.0), rtol=1e-3)


def test_an_int8_copy_does_not_depend_on_how_threads_fall(tiny_model: DrDecrModel, use_threads: Callable[[int], None]):
    use_threads(2)
    copies = [int8_copy(tiny_model, TEXTS * 5) for _ in range(8)]
    factors = [torch.cat([layer.factors for layer in one.modules() if isinstance(layer, Int8Linear)]) for one in copies]
    assert all(torch.equal(factors[0], other) for other in factors)


def test_channels_that_the_sample_never_showed_stay_finite():
    layer = nn.Linear(16, 4)
    layer.weight.data[:, 3] = 0
    sizes = torch.ones(16)
    sizes[:2] = 0
    inputs = torch.randn(5, 16)
    assert torch.allclose(Int8Linear(layer, sizes)(inputs), layer(inputs), atol=0.1)
    assert Int8Linear(layer, torch.zeros(16))(inputs).isfinite().all()


def test_a_torch_without_int8_leaves_float32(tiny_model: DrDecrModel, monkeypatch: pytest.MonkeyPatch):
    def missing(layer: nn.Linear, channel_sizes: Tensor | None) -> None:
        raise NotImplementedError("Could not run 'onednn::qlinear_prepack' with arguments from the 'CPU' backend")

    monkeypatch.setattr(fast_encoding, "Int8Linear", missing)
    choice = fastest_encoder(tiny_model, TEXTS, repeats=1)
    assert choice.seconds["int8"] is None
    assert "int8" not in choice.cosines


@pytest.mark.parametrize(
    ("seconds", "cosines", "expected"),
    [
        ({"float32": 2.0, "int8": 1.0, "bfloat16": 0.8}, {"int8": 0.999, "bfloat16": 0.999}, "bfloat16"),
        ({"float32": 2.0, "int8": 1.0, "bfloat16": 0.8}, {"int8": 0.999, "bfloat16": 0.99}, "int8"),
        ({"float32": 2.0, "int8": 1.9, "bfloat16": None}, {"int8": 0.999}, "float32"),
        ({"float32": 2.0, "int8": 1.0, "bfloat16": None}, {"int8": 0.9}, "float32"),
    ],
)
def test_the_fastest_that_is_close_enough_is_chosen(seconds, cosines, expected):
    assert choose(seconds, {"float32": 1.0, **cosines}, smallest_cosine=0.995) == expected


def test_a_measurement_says_what_it_found(tiny_model: DrDecrModel):
    choice = fastest_encoder(tiny_model, TEXTS, smallest_cosine=1.1, repeats=1)
    assert choice.name == "float32"
    assert choice.model is tiny_model
    assert set(choice.seconds) == {"float32", "int8", "bfloat16"}
    with pytest.raises(ValueError, match="sample of passages, got none"):
        fastest_encoder(tiny_model, [])


def test_a_new_folder_is_encoded_as_asked_and_an_index_as_it_was_begun(tmp_path):
    assert resolve_precision(None, tmp_path / "new") == "float32"
    assert resolve_precision("fastest", tmp_path / "new") == "fastest"
    for name, begun in (("old", "float32"), ("narrow", "int8")):
        StoredIndex.create(tmp_path / name, dim=8, precision=begun).close()
        assert [resolve_precision(asked, tmp_path / name) for asked in (None, "fastest", begun)] == [begun] * 3
        with pytest.raises(ValueError, match=f"{name}: encoded in {begun}, asked for bfloat16. Leave --precision out"):
            resolve_precision("bfloat16", tmp_path / name)
    StoredIndex.create(tmp_path / "exact", dim=8).close()
    assert resolve_codec(None, tmp_path / "exact") == resolve_codec("float16", tmp_path / "new") == "float16"
    with pytest.raises(ValueError, match="begun with codec float16, asked for int8"):
        resolve_codec("int8", tmp_path / "exact")
    with pytest.raises(ValueError, match="expected float32, bfloat16, int8 or fastest, got 'int4'"):
        resolve_precision("int4", tmp_path / "new")


@pytest.mark.parametrize(("precision", "narrow"), [("int8", int8_copy), ("bfloat16", bfloat16_copy)])
def test_a_model_encodes_in_the_precision_that_is_asked_for(tiny_model, precision, narrow):
    texts = first_passages([Document("d", "the sea . " * 40)], Splitter(passage_tokens=8), tiny_model)
    encoder, found = encoder_in(precision, tiny_model, texts)
    assert found == precision
    expected = narrow(tiny_model, texts) if precision == "int8" else narrow(tiny_model)
    assert torch.equal(torch.cat(encoder.encode_documents(texts)), torch.cat(expected.encode_documents(texts)))
    assert not torch.equal(torch.cat(encoder.encode_documents(texts)), torch.cat(tiny_model.encode_documents(texts)))


def test_a_sample_is_the_first_passages_of_a_collection_of_any_length(tiny_model):
    def endless():
        while True:
            yield Document("d", "the sea . " * 10)

    assert len(first_passages(endless(), Splitter(passage_tokens=8), tiny_model)) == fast_encoding.SAMPLE_PASSAGES
    assert first_passages([], Splitter(), tiny_model) == []


def test_a_torch_without_int8_says_so(tiny_model, monkeypatch):
    def missing(model, texts):
        raise RuntimeError("NoQEngine")

    monkeypatch.setattr(fast_encoding, "int8_copy", missing)
    with pytest.raises(ValueError, match=r"no such products on this machine \(NoQEngine\). Take float32"):
        encoder_in("int8", tiny_model, ["the sea"])
