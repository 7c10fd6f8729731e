"""Where a stage starts from: a checkpoint, an adapter, or a bare encoder under a projection that is set here."""

from typing import Any

import torch
from transformers.utils.peft_utils import find_adapter_config_file

from drdecr.data.offline.backbone import prepare_offline_backbone
from drdecr.data.prepare.cleaning import drop_leaks
from drdecr.data.provenance import hub_commit
from drdecr.data.schema import check_keys
from drdecr.data.sources import read_parallel
from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor
from drdecr.modeling_drdecr.configuration_drdecr import encoder_settings
from drdecr.modeling_drdecr.hub_drdecr import hub_errors
from drdecr.retrieval.encoder import OFFLINE
from drdecr.trainers import load_merged
from drdecr.trainers.projection import initialise_projection

from .recipe import EMBEDDING_DIM, PROJECTION, Recipe
from .training_data import held_out_texts


def load_student(recipe: Recipe) -> DrDecrModel:
    """Load the model that a stage starts from; a bare encoder gets its processor and projection from the recipe.

    Always in float32: AdamW's steps are too small for the weights of a checkpoint that was saved in half precision.
    `bf16: true` under `training` computes in bfloat16 beside them.

    Raises:
        ValueError: for settings that the start does not know, or that would have no effect on it.
    """
    source = recipe.resolve(recipe.model)
    if source == OFFLINE:
        source = str(prepare_offline_backbone())
    with hub_errors(source):
        commit = hub_commit(source, recipe.revision)
        hub: dict[str, Any] = {"revision": commit} if commit else {}
        if find_adapter_config_file(source, **hub) is not None:
            _check_lora(recipe, source, "an adapter", "Start from the merged `model` of its run")
            if recipe.encoder:
                raise ValueError(
                    f"encoder: expected none for the start {recipe.model!r}, which is an adapter over an encoder with settings "
                    "of its own. Start from the merged `model` of its run, or leave it out."
                )
            model = load_merged(source, **hub)
            _check_checkpoint(recipe, model)
            return model
        config_dict = DrDecrConfig.get_config_dict(source, **hub)[0]
        kind = (config_dict.get("encoder_config") or {}).get("model_type", "xlm-roberta")
        check_keys(recipe.encoder, sorted(encoder_settings(kind)), "encoder")
        if "embedding_dim" in config_dict:
            model = DrDecrModel.from_pretrained(source, dtype=torch.float32, **hub, **recipe.encoder)
            _check_checkpoint(recipe, model)
            return model
        cure = "Run a stage `initialise` and start from it"
        _check_lora(recipe, source, "an encoder without its projection", cure)
        width = EMBEDDING_DIM if recipe.embedding_dim is None else recipe.embedding_dim
        config = DrDecrConfig.from_pretrained(source, embedding_dim=width, **hub, **recipe.encoder)
        model = DrDecrModel.from_pretrained(source, config=config, dtype=torch.float32, **hub)
    # A bare encoder's own lengths are cut to its positions.
    lengths = {name: getattr(model.processor, name) for name in ("query_length", "document_length")}
    model.processor = DrDecrProcessor(model.processor.tokenizer, **{**lengths, **recipe.processor})
    initialise_projection(model, model.processor, _projection_texts(recipe), recipe.projection or PROJECTION)
    return model


def student_revision(recipe: Recipe) -> dict[str, Any]:
    """Return the commit of a start on the Hub, which a branch or a tag no longer names when it has moved."""
    source = recipe.resolve(recipe.model)
    with hub_errors(source):
        commit = None if source == OFFLINE else hub_commit(source, recipe.revision)
    return {"start_commit": commit} if commit else {}


def _projection_texts(recipe: Recipe) -> dict[str, list[str]]:
    """Return the texts by language that the projection is set from, without those that are measured on."""
    if not recipe.projection_text:
        return {}
    rows = drop_leaks(read_parallel(recipe.projection_text), held_out_texts(recipe), "projection_text")
    texts: dict[str, list[str]] = {}
    for code, text in zip(rows["language"], rows["query"], strict=True):
        texts.setdefault(code, []).append(text)
    texts["en"] = list(rows.unique("english"))
    return {code: own_texts[: recipe.projection_texts] for code, own_texts in texts.items()}


def _check_lora(recipe: Recipe, source: str, kind: str, cure: str) -> None:
    if recipe.lora is not None:
        raise ValueError(f"lora: expected `model` to be a whole checkpoint, got {kind}, {source}. {cure}.")


def _check_checkpoint(recipe: Recipe, model: DrDecrModel) -> None:
    """Refuse a processor or a projection other than those of the checkpoint: asking for them would have no effect."""
    for key in ("projection", "projection_text"):
        if getattr(recipe, key):
            raise ValueError(
                f"{key}: expected none for the start {recipe.model!r}, which is a checkpoint with a projection of its own. "
                "Leave it out, or start from a bare encoder."
            )
    has: dict[str, Any] = {"embedding_dim": model.config.embedding_dim}
    wants: dict[str, Any] = {"embedding_dim": recipe.embedding_dim} if recipe.embedding_dim is not None else {}
    for key, value in recipe.processor.items():
        wants[f"processor.{key}"], has[f"processor.{key}"] = value, getattr(model.processor, key, None)
    for key, value in wants.items():
        if value != has[key]:
            raise ValueError(
                f"{key}: expected {has[key]!r}, what the start {recipe.model!r} was made with, got {value!r}. Leave it out, "
                "or start from a bare encoder."
            )
