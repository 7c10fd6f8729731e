"""Convert checkpoints: from other libraries into ours, and from ours into theirs."""

import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken

from drdecr.data.files import write_text
from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor
from drdecr.modeling_drdecr.interop_drdecr import MODULES, OUR_CONFIG, loader_limits, pylate_settings, write_projection
from drdecr.modeling_drdecr.modeling_drdecr import num_positions

from .foreign_checkpoints import ForeignCheckpoint, is_ours, read_checkpoint

TARGETS = {
    "drdecr": "",
    "stanford": "Stanford ColBERT",
    "pylate": "PyLate",
    "sentence-transformers": "sentence-transformers",
    "encoder": "a bare encoder",
}
"""What a checkpoint can become, and the name under which its limits are reported."""

ENCODER_ALONE = (
    "linear.weight, markers, prefixes and lengths are left out: a bare encoder has no place for them. What reads it "
    "sees the hidden states below the projection."
)

LEFT_OUT = r"(.*\.)?(pooler\..*|position_ids|token_type_ids)|(cls|lm_head|head|decoder|classifier)\..*|score_scaler\..*"
"""Weights that take no part in token embeddings: heads of other tasks, and buffers that are made anew."""


def convert(
    source: str | Path,
    destination: str | Path,
    to: str = "drdecr",
    base: str | None = None,
    embedding_dim: int = 128,
    overwrite: bool = False,
) -> list[str]:
    """Convert a checkpoint; the destination is written whole or not at all.

    Args:
        source: a `.dnn` file, or a folder of PrimeQA, Stanford ColBERT v2, PyLate, sentence-transformers 6
            (multi-vector), of ours, or of a bare encoder.
        destination: folder to write.
        to: one of `TARGETS` (default ours, which the other libraries open as well; `encoder`: without the projection).
        base: folder or Hub name of the encoder, for a `.dnn` that does not come with its configuration.
        embedding_dim: width of the new projection of a bare encoder (default 128); otherwise the checkpoint's.
        overwrite: replace the destination (default False).

    Returns:
        What reads differently after the conversion, and which weights were left out, a sentence each.

    Raises:
        ValueError: for an unknown format or target, a destination that exists, weights that are missing, unexpected or
            of another shape, or a pickle that holds more than data.
    """
    source, destination = Path(source), Path(destination)
    if to not in TARGETS:
        raise ValueError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}.")
    if destination.exists() and not overwrite:
        raise ValueError(f"{destination} exists. Choose another folder, or replace it with `--overwrite`.")
    if destination.exists() and source.resolve().is_relative_to(destination.resolve()):
        raise ValueError(f"{destination} holds the source. Choose another folder.")
    model, notes = _read(source, base, embedding_dim)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as unfinished:
        folder = Path(unfinished) / "checkpoint"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what saving warns of is returned
            WRITERS[to](folder, model)
        if destination.exists():
            destination.replace(Path(unfinished) / "replaced")
        folder.replace(destination)
    names = [TARGETS[to]] if TARGETS[to] else list(TARGETS.values())[1:]
    limits = [limit for limit in loader_limits(model.processor) if any(n in limit.split(":")[0] for n in names)]
    return [*notes, *limits, *([ENCODER_ALONE] if to == "encoder" else [])]


def _read(source: Path, base: str | None, embedding_dim: int) -> tuple[DrDecrModel, list[str]]:
    if is_ours(source):
        return DrDecrModel.from_pretrained(source), []
    checkpoint = read_checkpoint(source, base)
    return build_model(checkpoint, embedding_dim)


def build_model(checkpoint: ForeignCheckpoint, embedding_dim: int = 128) -> tuple[DrDecrModel, list[str]]:
    """Build our model from a foreign checkpoint, with every weight accounted for.

    Returns:
        The model with its processor, and what reads differently.

    Raises:
        ValueError: if weights are missing, unexpected or of another shape; all are named.
    """
    projection = checkpoint.weights.get("linear.weight", checkpoint.weights.get("module.linear.weight"))
    dim = embedding_dim if projection is None else len(projection)
    model = DrDecrModel(DrDecrConfig(encoder_config=checkpoint.encoder_config, embedding_dim=dim)).eval()
    weights, left_out = rename_weights(checkpoint.weights, model)
    expected = model.state_dict()
    if projection is None:
        weights["linear.weight"] = expected["linear.weight"]
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & weights.keys())
            if weights[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise ValueError(
            f"The weights do not fit {type(model.encoder).__name__}: {said}. Does `--base` name the right encoder?"
        )
    model.load_state_dict(weights)
    model = model.to(weights["linear.weight"].dtype if projection is not None else torch.float32)
    model.processor = DrDecrProcessor(
        checkpoint.tokenizer, **{**_lengths(model, projection is None), **checkpoint.settings}
    )
    notes = list(checkpoint.notes)
    if projection is None:
        notes.append(f"linear.weight is new and random, {dim} wide: train it.")
    if left_out:
        notes.append(f"left out, since token embeddings do not use them: {', '.join(left_out)}.")
    return model, notes


def _lengths(model: DrDecrModel, is_bare: bool) -> dict[str, int]:
    """Return the default lengths of a bare encoder, cut to its positions; a checkpoint has its own."""
    room = num_positions(model.encoder) if is_bare else None
    return {} if room is None else {"query_length": min(32, room), "document_length": min(180, room)}


def rename_weights(weights: dict[str, Tensor], model: DrDecrModel) -> tuple[dict[str, Tensor], list[str]]:
    """Give weights the names that our model has; return them, and the names that take no part in embeddings."""
    expected, renamed, left_out = model.state_dict().keys(), {}, []
    prefix = model.base_model_prefix
    for name, tensor in weights.items():
        bare = name.removeprefix("module.")  # DistributedDataParallel
        bare = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", bare))  # checkpoints converted in 2019
        candidates = (bare, f"{prefix}.{bare}", bare.removeprefix("model."))
        ours = next((candidate for candidate in candidates if candidate in expected), None)
        if ours is None and re.fullmatch(LEFT_OUT, bare):
            left_out.append(name)
        elif ours in renamed:
            raise ValueError(f"The weights hold {ours} twice. Which one counts cannot be known.")
        else:
            renamed[ours or name] = tensor
    return renamed, left_out


def _write_drdecr(folder: Path, model: DrDecrModel) -> None:
    model.save_pretrained(folder)


def _write_stanford(folder: Path, model: DrDecrModel) -> None:
    """Write what Stanford ColBERT reads: no code of ours, `artifact.metadata`, the encoder's own configuration."""
    model.save_pretrained(folder)
    if not (folder / "artifact.metadata").exists():
        raise ValueError(
            "Stanford ColBERT needs a query marker and a document marker, and this checkpoint has none. It cannot "
            "become one without training."
        )
    ours = [*folder.glob("*_drdecr.py"), folder / "modules.json", folder / "config_sentence_transformers.json"]
    for path in (*ours, folder / "processor_config.json", folder / OUR_CONFIG):
        path.unlink()
    shutil.rmtree(folder / "1_Dense")
    _drop(folder / "config.json", "configuration_files", "drdecr")
    _drop(folder / "tokenizer_config.json", "auto_map", "processor_class")


def _write_pylate(folder: Path, model: DrDecrModel) -> None:
    """Write what PyLate saves: encoder, `Dense`, `config_sentence_transformers.json`."""
    _write_encoder(folder, model)
    write_projection(folder / "1_Dense", model.linear.weight)
    _write_json(folder / "modules.json", MODULES)
    _write_json(folder / "config_sentence_transformers.json", pylate_settings(model.processor))


def _write_sentence_transformers(folder: Path, model: DrDecrModel) -> None:
    """Write what `MultiVectorEncoder.save_pretrained` of sentence-transformers 6 saves."""
    settings = pylate_settings(model.processor)
    markers = {side: settings[f"{side}_prefix"] for side in ("query", "document")}
    _write_encoder(folder, model, [marker for marker in markers.values() if marker])
    write_projection(folder / "1_Dense", model.linear.weight)
    root = "sentence_transformers"
    kinds = [
        f"{root}.base.modules.transformer.Transformer",
        f"{root}.base.modules.dense.Dense",
        f"{root}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
        f"{root}.base.modules.normalize.Normalize",
    ]
    paths = ["", *(f"{index}_{kind.rsplit('.', 1)[-1]}" for index, kind in enumerate(kinds) if index)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    _write_json(folder / "modules.json", modules)
    dense = {"in_features": model.linear.in_features, "out_features": model.linear.out_features, "bias": False}
    tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    identity = "torch.nn.modules.linear.Identity"
    _write_json(folder / paths[1] / "config.json", {**dense, "activation_function": identity, **tokens})
    _write_json(folder / paths[2] / "config.json", {"skiplist_words": settings["skiplist_words"]})
    _write_json(folder / paths[3] / "config.json", tokens)
    lengths = {name: settings[name] for name in ("document_length", "query_expansion") if settings[name]}
    if not settings["query_expansion"]:
        lengths["query_length"] = settings["query_length"]
    _write_json(folder / "sentence_bert_config.json", {"transformer_task": "feature-extraction", **lengths})
    prompts = {side: markers[side] + settings["prompts"][side] for side in markers}
    public = {"model_type": "MultiVectorEncoder", "similarity_fn_name": "maxsim", "prompts": prompts}
    _write_json(folder / "config_sentence_transformers.json", {**public, "default_prompt_name": None})


def _write_encoder(folder: Path, model: DrDecrModel, special_tokens: list[str] | None = None) -> None:
    """Write encoder and tokenizer as transformers does; `special_tokens` are kept whole where a text holds them."""
    model.encoder.save_pretrained(folder)
    model.processor.tokenizer.save_pretrained(folder)
    if special_tokens:
        tokenizer = type(model.processor.tokenizer).from_pretrained(folder)
        added = [AddedToken(token, normalized=False, special=True) for token in special_tokens]
        tokenizer.add_tokens(added, special_tokens=True)
        tokenizer.save_pretrained(folder)


WRITERS = dict(
    zip(
        TARGETS,
        (_write_drdecr, _write_stanford, _write_pylate, _write_sentence_transformers, _write_encoder),
        strict=True,
    )
)


def _drop(path: Path, *keys: str) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, {key: value for key, value in content.items() if key not in keys})


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
