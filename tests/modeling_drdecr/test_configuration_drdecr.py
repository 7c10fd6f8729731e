"""The configuration: flat on disk, nested in memory."""

import json

import pytest
from transformers import AutoConfig, BertConfig, DebertaV2Config, ModernBertConfig, XLMRobertaConfig

from drdecr.modeling_drdecr import DrDecrConfig

ENCODERS = [BertConfig, XLMRobertaConfig, ModernBertConfig, DebertaV2Config]


@pytest.mark.parametrize("encoder_class", ENCODERS)
def test_saved_and_loaded_configurations_are_equal(encoder_class, tmp_path):
    config = DrDecrConfig(encoder_config=encoder_class(hidden_size=32, num_hidden_layers=3), embedding_dim=16)
    config.save_pretrained(tmp_path)
    loaded = DrDecrConfig.from_pretrained(tmp_path)
    assert type(loaded.encoder_config) is encoder_class
    assert loaded.embedding_dim == 16
    assert loaded.to_dict() == config.to_dict()


def test_the_file_is_the_encoders_own_with_one_more_key(tmp_path):
    encoder = BertConfig(hidden_size=32, num_hidden_layers=3)
    DrDecrConfig(encoder_config=encoder, embedding_dim=16).save_pretrained(tmp_path / "ours")
    encoder.save_pretrained(tmp_path / "bare")
    ours, bare = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "bare"))
    assert ours.pop("drdecr") == {"embedding_dim": 16, "format_version": 1}
    assert ours.pop("auto_map") == {"AutoConfig": "configuration_drdecr.DrDecrConfig"}
    assert ours.pop("architectures") == ["HF_ColBERT"]
    assert bare.pop("architectures", None) is None
    assert ours == bare
    assert ours["model_type"] == "bert"


def test_loaders_that_do_not_know_us_find_the_encoder(tmp_path):
    DrDecrConfig(encoder_config=BertConfig(hidden_size=32), embedding_dim=16).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is BertConfig


def test_a_bare_encoders_file_gives_its_encoder_and_our_defaults(tmp_path):
    ModernBertConfig(hidden_size=32).save_pretrained(tmp_path)
    config = DrDecrConfig.from_pretrained(tmp_path)
    assert type(config.encoder_config) is ModernBertConfig
    assert (config.encoder_config.hidden_size, config.embedding_dim) == (32, 128)
    assert DrDecrConfig.from_pretrained(tmp_path, embedding_dim=16).embedding_dim == 16


def test_the_nested_dictionary_and_the_flat_one_give_the_same():
    config = DrDecrConfig(encoder_config=BertConfig(hidden_size=32), embedding_dim=16)
    nested, flat = config.to_dict(), config.to_diff_dict()
    assert nested["model_type"] == "drdecr"
    assert flat["model_type"] == "bert"
    assert DrDecrConfig.from_dict(nested).to_dict() == DrDecrConfig.from_dict(flat).to_dict() == config.to_dict()


def test_reading_a_dictionary_leaves_it_as_it_was():
    flat = DrDecrConfig(encoder_config=BertConfig(hidden_size=32), embedding_dim=16).to_diff_dict()
    before = json.dumps(flat, sort_keys=True)
    DrDecrConfig.from_dict(flat)
    assert json.dumps(flat, sort_keys=True) == before


def test_the_encoder_may_be_a_dictionary_and_is_the_papers_xlm_r_by_default():
    config = DrDecrConfig(encoder_config={"model_type": "bert", "hidden_size": 32})
    assert type(config.encoder_config) is BertConfig
    assert config.hidden_size == config.get_text_config().hidden_size == 32
    assert type(DrDecrConfig().encoder_config) is XLMRobertaConfig
    assert (DrDecrConfig().hidden_size, DrDecrConfig().embedding_dim) == (768, 128)


@pytest.mark.parametrize("embedding_dim", [0, -1, 1.5, "128", None, True])
def test_a_width_that_is_no_positive_integer_is_refused(embedding_dim):
    with pytest.raises(ValueError, match=r"embedding_dim: expected a positive integer, got .*paper's width is 128"):
        DrDecrConfig(encoder_config=BertConfig(), embedding_dim=embedding_dim)


@pytest.mark.parametrize("encoder_class", ENCODERS)
@pytest.mark.parametrize("is_bare", [True, False])
def test_an_encoders_setting_reaches_the_encoder(encoder_class, is_bare, tmp_path):
    name = "attention_dropout" if encoder_class is ModernBertConfig else "hidden_dropout_prob"
    encoder = encoder_class(hidden_size=32, num_hidden_layers=3, **{name: 0.5})
    (encoder if is_bare else DrDecrConfig(encoder_config=encoder, embedding_dim=16)).save_pretrained(tmp_path)
    config = DrDecrConfig.from_pretrained(tmp_path, **{name: 0.25}, embedding_dim=8)
    assert getattr(config.encoder_config, name) == 0.25
    assert (config.embedding_dim, config.encoder_config.hidden_size) == (8, 32)
    assert name not in vars(config)
    config.save_pretrained(tmp_path / "again")
    assert getattr(DrDecrConfig.from_pretrained(tmp_path / "again").encoder_config, name) == 0.25


def test_settings_of_every_model_stay_where_transformers_looks(tmp_path):
    DrDecrConfig(encoder_config=BertConfig(hidden_size=32)).save_pretrained(tmp_path)
    config, unused = DrDecrConfig.from_pretrained(
        tmp_path, attn_implementation="eager", other=1, return_unused_kwargs=True
    )
    assert config._attn_implementation == config.encoder_config._attn_implementation == "eager"
    assert unused == {"other": 1}
