"""Student and teacher on tiny random encoders of four families."""

import json

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    XLMRobertaConfig,
)

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor, DrDecrTeacher

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
ENCODERS = {
    "bert": lambda: BertConfig(**SIZES),
    "xlm-roberta": lambda: XLMRobertaConfig(**SIZES),
    "modernbert": lambda: ModernBertConfig(**SIZES, bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2),
    "deberta-v2": lambda: DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}
TEXTS = ["what is the capital of france ?", "paris", "the king , in a city", ""]
FILES = {
    "1_Dense",
    "artifact.metadata",
    "config.json",
    "configuration_drdecr.py",
    "config.5.17.0.json",
    "config_sentence_transformers.json",
    "encoding_drdecr.py",
    "hub_drdecr.py",
    "interop_drdecr.py",
    "model.safetensors",
    "modeling_drdecr.py",
    "modules.json",
    "processing_drdecr.py",
    "processor_config.json",
    "scoring_drdecr.py",
    "scoring_gradient_drdecr.py",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(params=ENCODERS)
def encoder_config(request: pytest.FixtureRequest) -> PreTrainedConfig:
    return ENCODERS[request.param]()


@pytest.fixture
def model(encoder_config: PreTrainedConfig, tiny_processor: DrDecrProcessor) -> DrDecrModel:
    """A student on each encoder; weights wide enough that tokens differ."""
    torch.manual_seed(0)
    model = DrDecrModel(DrDecrConfig(encoder_config=encoder_config, embedding_dim=16)).eval()
    model.processor = tiny_processor
    return model


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_embeddings_are_the_normalised_projection_of_the_hidden_states(model, tiny_processor):
    batch = tiny_processor.process_documents(TEXTS)
    output = model(**batch, output_hidden_states=True)
    projected = output.last_hidden_state @ model.linear.weight.T
    expected = projected / projected.pow(2).sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(output.embeddings, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.embeddings.norm(dim=-1), torch.ones(batch["input_ids"].shape))
    assert output.embeddings.shape == (*batch["input_ids"].shape, 16)
    assert len(output.hidden_states) == 3
    assert model.linear.bias is None


def test_padding_does_not_move_an_embedding(model):
    together = model.encode_documents(TEXTS, batch_size=len(TEXTS))
    for text, tokens in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(model.encode_documents([text])[0], tokens, atol=1e-5, rtol=0)


def test_what_is_not_looked_at_does_not_move_an_embedding(model, tiny_tokenizer):
    plain, filled = DrDecrProcessor(tiny_tokenizer), DrDecrProcessor(tiny_tokenizer, query_expansion="mask")
    alone, expanded = plain.process_queries(["a sea"]), filled.process_queries(["a sea"])
    torch.testing.assert_close(model(**alone).embeddings, model(**expanded).embeddings[:, :4], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # the new name is not in 5.17
def test_gradient_checkpointing_gives_equal_gradients(model, tiny_processor):
    batch = tiny_processor.process_queries(TEXTS)
    passes, gradients = [], []
    inside_a_layer = next(module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear))
    inside_a_layer.register_forward_hook(lambda *_: passes.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        model.zero_grad()
        torch.manual_seed(1)  # dropout
        embeddings = model(**batch).embeddings
        (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(passes) == 1 + 2  # the second time again in the backward pass
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_every_parameter_learns(model, tiny_processor):
    """Distributed training takes a parameter without gradient for an error; so there is no pooler either."""
    model(**tiny_processor.process_queries(TEXTS)).embeddings[..., 0].sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert not any("pooler" in name for name in model.state_dict())


def test_bfloat16_loads_and_runs(model, tmp_path):
    model.save_pretrained(tmp_path / "full")
    half = DrDecrModel.from_pretrained(tmp_path / "full", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    for one, other in zip(half.encode_documents(TEXTS), model.encode_documents(TEXTS), strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0)
    half.save_pretrained(tmp_path / "half")
    assert {p.dtype for p in DrDecrModel.from_pretrained(tmp_path / "half").parameters()} == {torch.bfloat16}
    widened = DrDecrModel.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert {parameter.dtype for parameter in widened.parameters()} == {torch.float32}


def test_sdpa_equals_eager(model, tmp_path):
    if model.config.encoder_config.model_type == "deberta-v2":
        pytest.skip("transformers has only eager attention for DeBERTa")
    model.save_pretrained(tmp_path)
    sdpa, eager = (DrDecrModel.from_pretrained(tmp_path, attn_implementation=name) for name in ("sdpa", "eager"))
    assert (sdpa.encoder.config._attn_implementation, eager.encoder.config._attn_implementation) == ("sdpa", "eager")
    for one, other in zip(sdpa.encode_documents(TEXTS), eager.encode_documents(TEXTS), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForMaskedLM])
def test_an_encoders_checkpoint_loads_under_a_new_projection(auto_class, encoder_config, tiny_tokenizer, tmp_path):
    torch.manual_seed(1)
    bare: PreTrainedModel = auto_class.from_config(encoder_config)
    bare.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model, info = DrDecrModel.from_pretrained(tmp_path, embedding_dim=16, output_loading_info=True)
    assert info["missing_keys"] == {"linear.weight"}
    weights = {name: tensor for name, tensor in bare.base_model.state_dict().items() if "pooler" not in name}
    assert same_tensors(model.encoder.state_dict(), weights)
    assert model.linear.weight.shape == (16, 32)
    assert model.linear.weight.std() > 0
    assert model.processor.query_length == 32


@pytest.mark.parametrize("saved_as", [DrDecrModel, DrDecrTeacher])
@pytest.mark.parametrize("opened_as", [DrDecrModel, DrDecrTeacher])
def test_a_saved_model_is_loaded_as_it_was(saved_as, opened_as, encoder_config, tiny_processor, tmp_path):
    torch.manual_seed(0)
    saved = saved_as(DrDecrConfig(encoder_config=encoder_config, embedding_dim=16)).eval()
    saved.processor = tiny_processor
    saved.save_pretrained(tmp_path)
    opened = opened_as.from_pretrained(tmp_path)
    assert type(opened) is opened_as
    assert same_tensors(saved.state_dict(), opened.state_dict())
    assert not opened.training
    assert all(map(torch.equal, saved.encode_queries(TEXTS), opened.encode_queries(TEXTS)))


def test_the_folder_holds_exactly_what_it_needs(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    plain, config = (json.loads((tmp_path / it).read_text()) for it in ("config.json", "config.5.17.0.json"))
    assert plain["model_type"] == config["model_type"] == model.config.encoder_config.model_type
    assert plain["architectures"] == config["architectures"] == ["HF_ColBERT"]
    assert config["auto_map"] == {
        "AutoConfig": "configuration_drdecr.DrDecrConfig",
        "AutoModel": "modeling_drdecr.DrDecrModel",
    }
    assert plain["drdecr"] == config["drdecr"] == {"embedding_dim": 16, "format_version": 1}


def test_keys_are_those_of_stanford_colbert(model):
    prefix = AutoModel.from_config(model.config.encoder_config).base_model_prefix
    others = {name for name in model.state_dict() if not name.startswith(f"{prefix}.")}
    assert others == {"linear.weight"}


def test_the_folder_opens_as_the_bare_encoder_for_loaders_that_do_not_know_us(model, tmp_path):
    model.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    assert type(bare).__name__ == type(model.encoder).__name__
    weights = {name: tensor for name, tensor in bare.state_dict().items() if "pooler" not in name}
    assert same_tensors(model.encoder.state_dict(), weights)


def test_word_embeddings_are_the_encoders(model):
    replacement = torch.nn.Embedding(8, 32)
    model.set_input_embeddings(replacement)
    assert model.get_input_embeddings() is model.encoder.get_input_embeddings() is replacement


def test_resized_embeddings_are_saved_and_loaded(model, tmp_path):
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path)
    loaded = DrDecrModel.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight.shape == (70, 32)
    assert same_tensors(model.state_dict(), loaded.state_dict())


def test_the_processor_stays_home_when_another_process_saves(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "processor_config.json").exists()


def test_a_folder_without_a_tokenizer_gives_a_model_without_a_processor(tiny_model, tmp_path):
    tiny_model.processor = None
    tiny_model.save_pretrained(tmp_path)
    assert DrDecrModel.from_pretrained(tmp_path).processor is None


def test_a_teacher_stays_frozen_and_in_evaluation_mode(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    loaded, _ = DrDecrTeacher.from_pretrained(tmp_path, output_loading_info=True)
    for teacher in (loaded, DrDecrTeacher(tiny_model.config)):
        teacher.train()
        assert not any(module.training for module in teacher.modules())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
    batch = tiny_processor.process_queries(TEXTS)
    first, second = loaded(**batch).embeddings, loaded(**batch).embeddings
    assert not first.requires_grad
    assert torch.equal(first, second)
    assert torch.equal(first, tiny_model(**batch).embeddings)


def test_a_teacher_inside_a_student_keeps_its_mode(tiny_model):
    pair = torch.nn.ModuleDict({"student": DrDecrModel(tiny_model.config), "teacher": DrDecrTeacher(tiny_model.config)})
    pair.train()
    assert pair["student"].training
    assert not any(module.training for module in pair["teacher"].modules())


def test_dropout_can_be_turned_off_when_a_model_is_loaded(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    loaded = DrDecrModel.from_pretrained(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    ids = torch.tensor([[0, 40, 41, 42, 2]])
    assert torch.equal(loaded(ids).embeddings, loaded(ids).embeddings)
    assert not torch.equal(tiny_model.train()(ids).embeddings, tiny_model(ids).embeddings)
