"""Texts of a batch: each is encoded once, and a few at a time they give what they give together."""

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drdecr.data.collators import DistillationCollator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.trainers import DistillationTrainer, encoding
from drdecr.trainers import trainer as distillation
from drdecr.trainers.encoding import distinct_rows, encode_once, groups_of_like_length

TEXTS = ["the sea", "what is the capital of france", "a king", "the sea", "the river in the city of paris", "a king"]
SHORT_AND_LONG = ["a", "the", "sea", "a king in the city of"]


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


@pytest.mark.parametrize(
    ("size", "passes", "tokens"),
    [(None, 1, None), (1, 1, None), (3, 1, None), (None, 2, None), (None, 9, None), (None, 2, 1), (None, 2, 20)],
)
def test_values_and_gradients_are_those_of_one_pass_over_all_texts(
    still_model: DrDecrModel, size: int | None, passes: int, tokens: int | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(encoding, "PASS_COST", 1)
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
        lambda: encode_once(still_model, texts, size, passes=passes, tokens_a_pass=tokens),
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


@pytest.mark.parametrize("pass_cost", [1, 7, 40])
def test_groups_of_like_length_are_the_cheapest_of_all_divisions(pass_cost: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "PASS_COST", pass_cost)
    drawn = random.Random(0)
    for most in range(1, 6):
        lengths = [drawn.randrange(1, 30) for _ in range(drawn.randrange(1, 9))]
        ascending = sorted(lengths)
        costs = []
        for cuts in range(min(most, len(lengths))):
            for inner in itertools.combinations(range(1, len(lengths)), cuts):
                parts = [ascending[start:end] for start, end in itertools.pairwise([0, *inner, len(lengths)])]
                costs.append(sum(len(part) * part[-1] + pass_cost for part in parts))
        groups = groups_of_like_length(torch.tensor(lengths), most)
        assert sorted(torch.cat(groups).tolist()) == list(range(len(lengths)))
        read = [[lengths[place] for place in group] for group in groups]
        assert [length for group in read for length in group] == ascending
        assert sum(len(group) * max(group) + pass_cost for group in read) == min(costs)


@pytest.mark.parametrize(
    ("texts", "tokens_a_pass", "settings", "expected"),
    [
        (TEXTS, 1024, {}, [(2, 5), (2, 10)]),
        (TEXTS, 1024, {"forward_passes": 1}, [(4, 10)]),
        (SHORT_AND_LONG, 10, {}, [(2, 4), (1, 4), (1, 9)]),
        (SHORT_AND_LONG, 10, {"forward_passes": 2}, [(3, 4), (1, 9)]),
    ],
)
def test_a_trainer_on_a_cpu_reads_texts_of_like_length_together_in_passes_that_its_cache_holds(
    texts: list[str],
    tokens_a_pass: int,
    settings: dict[str, Any],
    expected: list[tuple[int, int]],
    still_model: DrDecrModel,
    collate: DistillationCollator,
    build: Callable[..., DistillationTrainer],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(encoding, "PASS_COST", 6)
    monkeypatch.setattr(distillation, "TOKENS_PER_PASS_ON_CPU", tokens_a_pass)
    trainer = build(DistillationTrainer, still_model, [], collate, contrastive_weight=1.0, **settings)
    counting = Counting(still_model)
    trainer._encode(still_model, dict(still_model.processor.process_documents(texts)))
    assert counting.calls == expected


@pytest.mark.parametrize("setting", ["is_fsdp_enabled", "is_deepspeed_enabled", "torch_compile"])
def test_processes_that_must_make_equally_many_passes_and_compiled_models_make_one(
    setting: str,
    still_model: DrDecrModel,
    collate: DistillationCollator,
    build: Callable[..., DistillationTrainer],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(encoding, "PASS_COST", 1)
    trainer = build(DistillationTrainer, still_model, [], collate, contrastive_weight=1.0, forward_passes=4)
    texts = dict(still_model.processor.process_documents(TEXTS))
    counting = Counting(still_model)
    trainer._encode(still_model, texts)
    assert len(counting.calls) > 1
    counting.calls.clear()
    setattr(trainer.args if setting == "torch_compile" else trainer, setting, True)
    trainer._encode(still_model, texts)
    assert len(counting.calls) == 1


def test_texts_of_which_no_token_counts_are_encoded_with_the_others(still_model: DrDecrModel, monkeypatch):
    monkeypatch.setattr(encoding, "PASS_COST", 1)
    texts = dict(still_model.processor.process_documents(TEXTS[1:5]))
    for name in ("attention_mask", "scoring_mask", "text_mask"):
        texts[name] = texts[name].clone()
        texts[name][:2] = 0
    expected = still_model(**{name: tensor[2:] for name, tensor in texts.items()}).embeddings
    found = encode_once(still_model, texts, passes=4)[2:]
    counts = texts["scoring_mask"][2:]
    torch.testing.assert_close(found[counts], expected[counts], atol=1e-5, rtol=0)


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
