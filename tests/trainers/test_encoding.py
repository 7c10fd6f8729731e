"""Texts of a batch: each is encoded once, and a few at a time they give what they give together."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drdecr.data.collators import DistillationCollator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.trainers import DistillationTrainer
from drdecr.trainers.encoding import distinct_rows, encode_once

TEXTS = ["the sea", "what is the capital of france", "a king", "the sea", "the river in the city of paris", "a king"]


class Counting:
    """A model that counts its calls and the tokens that its encoder looks at, in the backward pass too."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[tuple[int, int]] = []
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.calls.append(tuple(kwargs["input_ids"].shape))  # type: ignore[arg-type]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_each_text_is_found_where_it_stands_first(tiny_processor: DrDecrProcessor):
    first, place = distinct_rows(dict(tiny_processor.process_documents(TEXTS)))
    assert first.tolist() == [0, 1, 2, 4]
    assert place.tolist() == [0, 1, 2, 0, 3, 2]


@pytest.mark.parametrize("size", [None, 1, 3])
def test_values_and_gradients_are_those_of_one_pass_over_all_texts(still_model: DrDecrModel, size: int | None):
    texts = {
        name: tensor.unflatten(0, (2, 3)) for name, tensor in still_model.processor.process_documents(TEXTS).items()
    }
    counts = texts["scoring_mask"]
    weights = torch.randn(*counts.shape, still_model.config.embedding_dim)
    results = []
    for encode in (
        lambda: still_model(**{name: tensor.flatten(0, 1) for name, tensor in texts.items()}).embeddings.unflatten(
            0, (2, 3)
        ),
        lambda: encode_once(still_model, texts, size),
    ):
        still_model.zero_grad()
        embeddings = encode()
        (embeddings * weights)[counts].sum().backward()
        results.append((embeddings[counts].detach(), gradients(still_model)))
    (plain, expected), (once, found) = results
    torch.testing.assert_close(once, plain, atol=1e-5, rtol=0)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_a_text_that_stands_in_a_batch_twice_is_encoded_once(tiny_model: DrDecrModel):
    texts = dict(tiny_model.processor.process_documents(TEXTS))
    counting = Counting(tiny_model)
    encode_once(tiny_model, texts)
    assert counting.calls == [(4, texts["input_ids"].shape[1])]


def test_mini_batches_hold_texts_of_like_length_without_the_padding_of_others(tiny_model: DrDecrModel):
    texts = dict(tiny_model.processor.process_documents(TEXTS))
    counting = Counting(tiny_model)
    encode_once(tiny_model, texts, mini_batch_size=2).sum().backward()
    # 2 words and <s> [D] </s>, twice; then 6 and 7 words. The first is kept and the second encoded again, backwards.
    assert counting.calls == [(2, 5), (2, 10), (2, 10)]


def test_the_second_pass_repeats_the_dropout_of_the_first(tiny_model: DrDecrModel):
    tiny_model.train()
    texts = dict(tiny_model.processor.process_documents(TEXTS))
    seen: list[Tensor] = []
    tiny_model.linear.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    encode_once(tiny_model, texts, mini_batch_size=2).sum().backward()
    first, second, again = seen
    assert torch.equal(second, again)
    assert not torch.equal(first, second[:, : first.shape[1]])


@pytest.mark.parametrize("rows", ["candidate_rows", "parallel_rows"])
def test_gradient_caching_changes_no_weight_of_a_run(
    rows: str,
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    collate: DistillationCollator,
    build: Callable[..., DistillationTrainer],
    request: pytest.FixtureRequest,
):
    weights = ("relevance_weight", "token_weight", "anchor_weight", "contrastive_weight", "in_batch_weight")
    settings = {**dict.fromkeys(weights, 1.0), "teacher": teacher, "optim": "sgd", "learning_rate": 0.1}
    data, cached = request.getfixturevalue(rows), copy.deepcopy(still_model)
    plain = build(DistillationTrainer, still_model, data, collate, **settings)
    plain.train()
    trainer = build(DistillationTrainer, cached, data, collate, encode_mini_batch_size=3, **settings)
    trainer.train()
    for (name, one), other in zip(still_model.state_dict().items(), cached.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5, msg=name)
    expected, found = ([line["loss"] for line in one.state.log_history if "loss" in line] for one in (plain, trainer))
    assert found == pytest.approx(expected, rel=1e-4)
