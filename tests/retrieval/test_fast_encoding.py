"""Faster models: what int8 changes and what it does not, and what is chosen of what was measured."""

import pytest
import torch
from torch import nn

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.fast_encoding import choose, fastest_encoder, int8_copy

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
