"""Every kind of encoder that works: read in both directions, without its padding, saved, trained by LoRA, sharded by layers."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor
from drdecr.modeling_drdecr.modeling_drdecr import num_positions
from drdecr.trainers.adapters import LoraSettings, add_adapter
from drdecr.trainers.checks import layer_classes

PLAIN = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PLAIN |= {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
DECODER = {**PLAIN, "num_key_value_heads": 2, "head_dim": 16}
BART = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "pad_token_id": 1,
}
BART |= {
    "pad_token_id": 1,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "pad_token_id": 1}
DISTILBERT = {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 66}
MODERN = {**PLAIN, "cls_token_id": 0, "sep_token_id": 2}
ENCODERS = {
    "bert": PLAIN,
    "roberta": PLAIN,
    "xlm-roberta": PLAIN,
    "camembert": PLAIN,
    "mpnet": PLAIN,
    "distilbert": DISTILBERT,
    "deberta-v2": PLAIN,
    "electra": {**PLAIN, "embedding_size": 32},
    "albert": {**PLAIN, "embedding_size": 32},
    "modernbert": MODERN,
    "xmod": {**PLAIN, "languages": ["en_XX"], "default_language": "en_XX"},
    "rembert": {**PLAIN, "input_embedding_size": 32, "output_embedding_size": 32},
    "qwen2": DECODER,
    "qwen3": DECODER,
    "llama": DECODER,
    "mistral": DECODER,
    "gemma2": DECODER,
    "gemma3_text": DECODER,
    "modernbert-decoder": MODERN,
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "bart": BART,
    "mbart": BART,
    "m2m_100": BART,
}
DECODERS = ["qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text", "modernbert-decoder"]
PAIRS = ["t5", "mt5", "umt5", "bart", "mbart", "m2m_100"]
"""Encoder-decoders."""
IDS = torch.tensor([[0, 8, 10, 9, 12, 2]])


def model_of(kind, **settings):
    torch.manual_seed(0)
    encoder = CONFIG_MAPPING[kind](**{**ENCODERS[kind], **settings})
    return DrDecrModel(DrDecrConfig(encoder_config=encoder, embedding_dim=8)).eval()


@torch.no_grad()
def embed(model, ids, mask=None):
    return model(ids, torch.ones_like(ids) if mask is None else mask).embeddings


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_reads_both_ways_and_no_padding_and_comes_back(kind, tmp_path):
    model = model_of(kind)
    whole = embed(model, IDS)
    other = IDS.clone()
    other[0, -2] = 20
    assert (embed(model, other)[0, 1] - whole[0, 1]).abs().max() > 1e-6  # an early token sees a late one
    padded = torch.cat([IDS, torch.ones(1, 3, dtype=torch.int64)], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 3])
    assert torch.allclose(embed(model, padded, mask)[:, :6], whole, atol=1e-4)
    model.save_pretrained(tmp_path)
    assert torch.equal(embed(DrDecrModel.from_pretrained(tmp_path).eval(), IDS), whole)
    assert len(layer_classes(model)) == 1


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_adapter_trains_and_changes_nothing_before(kind):
    model = model_of(kind)
    whole = embed(model, IDS)
    adapted = add_adapter(model, LoraSettings(rank=2, dropout=0.0))
    assert torch.allclose(embed(adapted, IDS), whole, atol=1e-6)
    adapted.train()
    adapted(IDS, torch.ones_like(IDS)).embeddings[..., 0].sum().backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert any("lora_B" in name for name in trained)
    assert any("linear" in name for name in trained)


@pytest.mark.parametrize("kind", PAIRS)
def test_of_an_encoder_decoder_the_encoder_alone_is_used(kind, tmp_path):
    torch.manual_seed(0)
    whole = AutoModel.from_config(CONFIG_MAPPING[kind](**ENCODERS[kind])).eval()
    whole.save_pretrained(tmp_path)
    model = DrDecrModel.from_pretrained(tmp_path, embedding_dim=8).eval()
    with torch.no_grad():
        states = whole.get_encoder()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
        assert torch.equal(model(IDS, torch.ones_like(IDS)).last_hidden_state, states)
    assert not any("decoder" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_looks_back_only_where_its_configuration_says_so(kind):
    model = model_of(kind, is_causal=True)
    other = IDS.clone()
    other[0, -2] = 20
    assert torch.equal(embed(model, other)[0, 1], embed(model, IDS)[0, 1])


def test_what_cannot_be_an_encoder_is_refused_in_one_line():
    with pytest.raises(ValueError, match="'fnet' encoder cannot be used: it mixes padding"):
        DrDecrConfig(encoder_config={"model_type": "fnet"})


@pytest.mark.parametrize(
    ("kind", "positions"), [("bert", 66), ("xlm-roberta", 64), ("bart", 64), ("distilbert", 66), ("mt5", None)]
)
def test_lengths_beyond_the_positions_are_refused_when_the_two_are_joined(kind, positions, tiny_tokenizer):
    model = model_of(kind)
    assert num_positions(model.encoder) == positions
    longest = positions or 10_000
    model.processor = DrDecrProcessor(tiny_tokenizer, document_length=longest)
    if positions is None:
        return
    text = "the " * 2 * longest
    assert model.encode_documents([text])[0].shape[0] == longest  # the last position is there
    for name in ("document_length", "query_length"):
        processor = DrDecrProcessor(tiny_tokenizer, **{"document_length": 9, "query_length": 9, name: longest + 1})
        with pytest.raises(
            ValueError, match=f"{name}: expected at most {positions}, .*{kind!r} encoder, got {longest + 1}"
        ):
            model.processor = processor


@pytest.mark.parametrize(("kind", "attention"), [("bert", "flash_attention_2"), ("deberta-v2", "eager")])
def test_expansion_that_attention_leaves_out_is_refused(kind, attention, tiny_tokenizer):
    model = model_of(kind)
    model.config._attn_implementation_internal = attention
    with pytest.raises(ValueError, match=r"query_expansion: expected tokens that .* computes"):
        model.processor = DrDecrProcessor(tiny_tokenizer, 8, 16, query_expansion="mask")
    model.processor = DrDecrProcessor(tiny_tokenizer, 8, 16, query_expansion="mask", attend_to_expansion=True)


def test_a_quantised_projection_gets_what_the_encoder_puts_out():
    model = model_of("bert")
    whole = embed(model, IDS)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert torch.nn.functional.cosine_similarity(embed(quantised, IDS), whole, dim=-1).min() > 0.98


@torch.no_grad()
def test_embeddings_may_come_in_the_place_of_ids():
    model = model_of("bert")
    vectors = model.get_input_embeddings()(IDS)
    output = model(inputs_embeds=vectors, attention_mask=torch.ones_like(IDS)).embeddings
    assert torch.allclose(output, embed(model, IDS))


def test_missing_parts_of_a_checkpoint_are_refused(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    for drop in ("linear.weight", "bert.encoder.layer.0.output.dense.weight"):
        folder = tmp_path / drop
        tiny_model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name: tensor for name, tensor in weights.items() if name != drop},
            folder / "model.safetensors",
            {"format": "pt"},
        )
        with pytest.raises(ValueError, match=f"without 1 weights \\({drop}\\)"):
            DrDecrModel.from_pretrained(folder)
    tiny_model.save_pretrained(tmp_path / "settings")
    (tmp_path / "settings" / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"expected processor_config.json beside the tokenizer"):
        DrDecrModel.from_pretrained(tmp_path / "settings")


def test_a_pickle_in_place_of_weights_is_told_in_one_line(tiny_model, tmp_path):
    import pickle

    tiny_model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(ValueError, match=r"expected weights, got a pickle") as refused:
        DrDecrModel.from_pretrained(tmp_path)
    assert "weights_only" not in str(refused.value)


def test_control_tokens_in_a_text_are_text(tiny_tokenizer):
    tiny_tokenizer.add_tokens(["[Q]"])
    processor = DrDecrProcessor(tiny_tokenizer, 16, 24, query_marker="[Q]")
    special = {*tiny_tokenizer.all_special_ids, tiny_tokenizer.convert_tokens_to_ids("[Q]")} - {
        tiny_tokenizer.unk_token_id
    }
    for process in (processor.process_queries, processor.process_documents):
        batch = process(["the <s> city </s> <mask> <pad> [Q] of", "a"])
        assert not special & set(batch["input_ids"][batch["text_mask"]].tolist())


def test_half_a_surrogate_pair_is_read_as_a_question_mark(tiny_model):
    half, mark = (tiny_model.encode_queries([text])[0] for text in ("city \ud83d paris", "city ? paris"))
    assert torch.equal(half, mark)
