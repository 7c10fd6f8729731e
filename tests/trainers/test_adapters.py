"""Adapters: what moves, what stays, the backbone as teacher, every way to open them, and switching between them."""

import copy

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from torch import nn
from transformers import AutoModel, BertConfig, DistilBertConfig, XLMRobertaConfig

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrTeacher
from drdecr.trainers import DistillationTrainer, RelevanceDistillationTrainer
from drdecr.trainers.adapters import (
    PROJECTION,
    AdaptersOffTeacher,
    LoraSettings,
    add_adapter,
    load_merged,
    push_adapter,
    use_adapter,
)

SETTINGS = LoraSettings(rank=4, alpha=8, dropout=0.0)
TEXTS = ["what is the capital", "river sea king city of paris", "the sea"]


@pytest.fixture
def base(still_model, tmp_path):
    """The folder of a student without dropout."""
    still_model.config.encoder_config.hidden_dropout_prob = 0.0
    still_model.config.encoder_config.attention_probs_dropout_prob = 0.0
    still_model.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def adapted(base, seed=1):
    """A student with an adapter that was moved far, so that on and off differ."""
    model = add_adapter(DrDecrModel.from_pretrained(base), SETTINGS)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def read(model):
    return [model.encode_queries(TEXTS), model.encode_documents(TEXTS)]


def largest_difference(one, other):
    return max(float((a - b).abs().max()) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_a_fresh_adapter_changes_nothing(base):
    model = DrDecrModel.from_pretrained(base)
    before = read(model)
    assert largest_difference(before, read(add_adapter(model, SETTINGS))) == 0


def test_only_adapter_and_projection_move(base, build, candidate_rows, collate):
    model = add_adapter(DrDecrModel.from_pretrained(base), SETTINGS)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = {"relevance_weight": 1.0, "token_weight": 1.0}
    build(DistillationTrainer, model, candidate_rows, collate, teacher=other_teacher(base), **weights).train()
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    expected = {name for name in before if ".lora_" in name or ".modules_to_save." in name}
    assert moved == expected
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == expected
    assert len(expected) == 2 * 2 * 2 + 1  # two layers, query and value, A and B; the projection


def other_teacher(base):
    """A teacher of other weights."""
    teacher = DrDecrTeacher.from_pretrained(base)
    torch.manual_seed(5)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    return teacher


def test_adapters_off_is_the_base_exactly(base):
    model = adapted(base)
    expected = read(DrDecrModel.from_pretrained(base))
    assert largest_difference(expected, read(model)) > 0.01
    assert largest_difference(expected, read(AdaptersOffTeacher(model))) == 0
    with use_adapter(model, None):
        assert largest_difference(expected, read(model)) == 0
    assert largest_difference(expected, read(model)) > 0.01


def test_the_backbone_teaches_like_a_separate_copy(base, build, candidate_rows, collate):
    """The losses of six steps, with all terms, against a teacher that is a model of its own."""
    settings = {"relevance_weight": 1.0, "token_weight": 1.0, "max_steps": 6, "learning_rate": 0.01}
    logs = []
    for own_backbone in (True, False):
        model = adapted(base)
        teacher = AdaptersOffTeacher(model) if own_backbone else DrDecrTeacher.from_pretrained(base)
        trainer = build(DistillationTrainer, model, candidate_rows, collate, teacher=teacher, **settings)
        trainer.train()
        logs.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
        assert model.training
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert trained == {name for name in model.state_dict() if ".lora_" in name or "modules_to_save" in name}
    assert len(logs[0]) == 6
    assert logs[0][0] > 0.01
    assert np.allclose(*logs, rtol=1e-5, atol=0)


def test_the_backbone_teaches_without_dropout(tiny_model, tiny_processor):
    """The student in training drops; its backbone, asked twice as a teacher, says the same."""
    model = add_adapter(tiny_model, LoraSettings(rank=2, dropout=0.5)).train()
    batch = tiny_processor.process_queries(TEXTS)
    teacher = AdaptersOffTeacher(model)
    first, second = (teacher(**batch).embeddings for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training
    assert not torch.equal(model(**batch).embeddings, model(**batch).embeddings)


def test_the_projection_of_an_adapter_has_its_learning_rate(base, build, candidate_rows, collate):
    model = add_adapter(DrDecrModel.from_pretrained(base), SETTINGS)
    trainer = build(
        RelevanceDistillationTrainer, model, candidate_rows, collate, learning_rate=1e-3, projection_learning_rate=0.5
    )
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    trained = {name: rates[id(weight)] for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name: rate for name, rate in trained.items() if rate == 0.5}.keys() == {
        f"base_model.model.{PROJECTION}.modules_to_save.default.weight"
    }
    assert set(trained.values()) == {0.5, 1e-3}
    assert len(rates) == len(trained)


def test_a_frozen_projection_with_a_learning_rate_is_an_error(tiny_model, build, candidate_rows, collate):
    tiny_model.linear.requires_grad_(False)
    trainer = build(RelevanceDistillationTrainer, tiny_model, candidate_rows, collate, projection_learning_rate=0.5)
    with pytest.raises(ValueError, match="projection is frozen"):
        trainer.create_optimizer()


def test_merged_is_the_adapter(base, tmp_path):
    model = adapted(base)
    expected = read(model)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert largest_difference(expected, read(DrDecrModel.from_pretrained(tmp_path / "merged"))) < 1e-5
    assert largest_difference(expected, read(load_merged(str(tmp_path / "adapter")))) < 1e-5


def test_every_loader_opens_an_adapter(base, tmp_path):
    model = adapted(base)
    expected = read(model)
    folder = str(tmp_path / "adapter")
    model.save_pretrained(folder)
    opened = {
        "PeftModel": PeftModel.from_pretrained(DrDecrModel.from_pretrained(base), folder),
        "AutoPeftModel": AutoPeftModelForFeatureExtraction.from_pretrained(folder, trust_remote_code=True),
        "AutoModel": AutoModel.from_pretrained(folder, trust_remote_code=True),
        "DrDecrModel": DrDecrModel.from_pretrained(folder),
        "DrDecrTeacher": DrDecrTeacher.from_pretrained(folder),
    }
    differences = {name: largest_difference(expected, read(found)) for name, found in opened.items()}
    assert differences == dict.fromkeys(opened, 0.0)


def test_adapters_are_switched_by_request(base, tmp_path, tiny_processor):
    expected = {None: read(DrDecrModel.from_pretrained(base))}
    for name, seed in (("fi", 1), ("sw", 2)):
        model = adapted(base, seed)
        expected[name] = read(model)
        model.save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(DrDecrModel.from_pretrained(base), str(tmp_path / "fi"), adapter_name="fi")
    model.load_adapter(str(tmp_path / "sw"), "sw")
    trainable = [weight.requires_grad for weight in model.parameters()]
    for name in ("sw", None, "fi", "sw", "fi"):
        with use_adapter(model, name):
            assert largest_difference(expected[name], read(model)) == 0
        assert model.active_adapter == "fi"
        assert [weight.requires_grad for weight in model.parameters()] == trainable
    assert largest_difference(expected["fi"], expected["sw"]) > 0.01
    with pytest.raises(ValueError, match="expected one of fi, sw, got 'ja'"), use_adapter(model, "ja"):
        pass
    # Rows of one batch, each with an adapter of its own.
    batch = tiny_processor.process_queries(TEXTS)
    mixed = model(**batch, adapter_names=["sw", "__base__", "fi"]).embeddings
    for row, name in enumerate(("sw", None, "fi")):
        counts = batch["scoring_mask"][row]
        assert torch.allclose(mixed[row][counts], expected[name][0][row], atol=1e-6)
    # One of several is merged.
    model.set_adapter("sw")
    assert largest_difference(expected["sw"], read(model.merge_and_unload())) < 1e-5


ENCODERS = {
    "bert": BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16),
    "xlm-roberta": XLMRobertaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    ),
    "distilbert": DistilBertConfig(vocab_size=64, dim=16, n_layers=2, n_heads=2, hidden_dim=16),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_layers_are_chosen_by_the_encoder(kind):
    model = add_adapter(DrDecrModel(DrDecrConfig(encoder_config=ENCODERS[kind], embedding_dim=4)))
    layers = {name.split(".lora_")[0] for name, weight in model.named_parameters() if ".lora_" in name}
    assert len(layers) == 4  # query and value of two layers
    assert all("attention" in name for name in layers)


def test_an_encoder_of_an_unknown_type_gets_an_adapter_on_all_its_linear_layers(tiny_model):
    tiny_model.config.encoder_config.model_type = "new"
    adapted = {name for name, _ in add_adapter(tiny_model).named_modules() if name.endswith("lora_A")}
    assert len(adapted) == 2 * 6  # query, key, value and three dense layers in each of two


@pytest.mark.parametrize("settings", [{"rank": 0}, {"rank": 2.5}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_odd_settings_are_refused(settings):
    with pytest.raises(ValueError, match="lora: expected"):
        LoraSettings(**settings)


def test_an_adapter_of_a_folder_is_not_pushed(base):
    model = adapted(base)
    with pytest.raises(ValueError, match="expected the Hub name"):
        push_adapter(model, "user/adapter")


def test_the_best_checkpoint_of_an_adapter_comes_back(base, build, candidate_rows, collate):
    """The second of four evaluations is the best: its adapter and projection are what the trainer holds at the end."""
    model = adapted(base)
    seen = []

    def validate(student):
        seen.append(copy.deepcopy({name: p.detach() for name, p in student.named_parameters() if p.requires_grad}))
        return {"good": float(len(seen) == 2)}

    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "good", "greater_is_better": True}
    trainer = build(
        DistillationTrainer,
        model,
        candidate_rows,
        collate,
        teacher=AdaptersOffTeacher(model),
        evaluator=validate,
        relevance_weight=1.0,
        learning_rate=0.05,
        **steps,
        **best,
    )
    trainer.train()
    now = dict(model.named_parameters())
    assert len(seen) == 4
    assert all(torch.equal(now[name], weight) for name, weight in seen[1].items())
    assert not any(torch.equal(weight, seen[3][name]) for name, weight in seen[1].items())
