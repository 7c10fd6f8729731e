"""Checkpoints of other libraries, read into one form: weights, encoder configuration, tokenizer, settings, notes.

Nothing of a checkpoint is executed: weights are safetensors, or pickles that hold tensors and plain values only.
"""

import json
import pickle
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

FORMATS = ("primeqa", "pylate", "sentence-transformers", "stanford", "encoder")

Json = dict[str, Any]


@dataclass
class ForeignCheckpoint:
    """A checkpoint as it was found.

    Args:
        weights: encoder and `linear.weight` by name; without the latter the projection is new.
        encoder_config: the encoder's configuration.
        tokenizer: its tokenizer.
        settings: arguments of `DrDecrProcessor`.
        notes: what reads differently here, a sentence each.
    """

    weights: dict[str, Tensor]
    encoder_config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    settings: Json
    notes: list[str] = field(default_factory=list)


def is_ours(source: Path) -> bool:
    """Tell whether a folder is a checkpoint of this package."""
    return "drdecr" in _json(source / "config.json") and (source / "processor_config.json").is_file()


def find_format(source: Path) -> str:
    """Tell the format of a checkpoint by its files: one of `FORMATS`.

    Raises:
        ValueError: if it is none of them.
    """
    if source.suffix == ".dnn" or (source.is_dir() and list(source.glob("*.dnn"))):
        return "primeqa"
    config = _json(source / "config.json")
    if not config:
        raise ValueError(f"{source}: expected a .dnn file or a folder with config.json. Download the checkpoint first.")
    modules = _json(source / "modules.json")
    if modules:
        is_pylate = any(module["type"].startswith("pylate.") for module in modules)
        return "pylate" if is_pylate else "sentence-transformers"
    return "stanford" if "HF_ColBERT" in (config.get("architectures") or []) else "encoder"


def read_checkpoint(source: Path, base: str | None = None) -> ForeignCheckpoint:
    """Read a checkpoint of any of `FORMATS`.

    Args:
        source: a `.dnn` file or a folder.
        base: folder or Hub name of encoder configuration and tokenizer, for a `.dnn` that comes without.

    Raises:
        ValueError: for a format that is not known, a pickle that holds more than data, or a setting that we lack.
    """
    return READERS[find_format(source)](source, base)


def read_primeqa(source: Path, base: str | None) -> ForeignCheckpoint:
    """Read a `.dnn` of PrimeQA or ColBERT v1, alone or in a folder; optimizer state is left out."""
    path = source if source.is_file() else _only(sorted(source.glob("*.dnn")), source)
    content = load_tensors(path)
    weights = content.get("model_state_dict")
    if not isinstance(weights, dict):
        raise ValueError(
            f"{path}: expected `model_state_dict` in it, got {', '.join(map(str, content))}. Is it another format?"
        )
    arguments = content.get("arguments") or {}
    has_config = source.is_dir() and (source / "config.json").exists()
    encoder = base or (str(source) if has_config else arguments.get("model") or arguments.get("checkpoint"))
    if not encoder:
        raise ValueError(f"{path} does not say which encoder it is. Name it: `--base xlm-roberta-base` or a folder.")
    settings = {
        "legacy_primeqa": True,
        "query_length": arguments.get("query_maxlen", 32),
        "document_length": arguments.get("doc_maxlen", 180),
        "skip_punctuation": arguments.get("mask_punctuation", True),
    }
    notes = ["legacy_primeqa: padding fills queries and takes part in MaxSim, as in the authors' code."]
    if arguments.get("similarity") == "l2":
        notes.append("It was trained with L2 similarity: ranks are those of cosine, gaps between scores twice ours.")
    return ForeignCheckpoint(weights, AutoConfig.from_pretrained(encoder), _tokenizer(encoder), settings, notes)


def read_stanford(source: Path, _: str | None) -> ForeignCheckpoint:
    """Read a folder of Stanford ColBERT v2: weights with `linear.weight`, and `artifact.metadata`."""
    metadata = _json(source / "artifact.metadata")
    metadata = metadata.get("config", metadata)
    settings = {
        "query_marker": metadata.get("query_token_id") or "[unused0]",
        "document_marker": metadata.get("doc_token_id") or "[unused1]",
        "query_length": metadata.get("query_maxlen", 32),
        "document_length": metadata.get("doc_maxlen", 220),
        "query_expansion": "mask",
        "attend_to_expansion": metadata.get("attend_to_mask_tokens", False),
        "skip_punctuation": metadata.get("mask_punctuation", True),
    }
    notes = [PUNCTUATION_NOTE] if settings["skip_punctuation"] else []
    weights = read_weights(source)
    return ForeignCheckpoint(weights, AutoConfig.from_pretrained(source), _tokenizer(source), settings, notes)


def read_pylate(source: Path, _: str | None) -> ForeignCheckpoint:
    """Read a folder of PyLate: `[Transformer, Dense ...]` and `config_sentence_transformers.json`."""
    config = _json(source / "config_sentence_transformers.json")
    prompts = config.get("prompts") or {}
    settings = {
        "query_marker": config.get("query_prefix", "[Q] ") or None,
        "document_marker": config.get("document_prefix", "[D] ") or None,
        "query_prefix": (prompts.get("query") or "").strip(" ") and prompts["query"],
        "document_prefix": (prompts.get("document") or "").strip(" ") and prompts["document"],
        "score_prefix": True,
        "query_length": config.get("query_length") or 32,
        "document_length": config.get("document_length") or 180,
        "query_expansion": "mask" if config.get("do_query_expansion", True) else "none",
        "attend_to_expansion": bool(config.get("attend_to_expansion_tokens")),
    }
    return _from_modules(source, settings, config.get("skiplist_words", list(string.punctuation)))


def read_sentence_transformers(source: Path, _: str | None) -> ForeignCheckpoint:
    """Read a multi-vector folder of sentence-transformers 6: `[Transformer, Dense ..., MultiVectorMask, Normalize]`."""
    config = _json(source / "config_sentence_transformers.json")
    transformer = _json(source / "sentence_bert_config.json")
    mask = next((m for m in _json(source / "modules.json") if m["type"].endswith("MultiVectorMask")), None)
    if mask is None:
        raise ValueError(f"{source}: expected a multi-vector model, got one without MultiVectorMask. Is it dense?")
    masking = _json(source / mask["path"] / "config.json")
    if masking.get("keep_only_token_ids") or masking.get("skiplist_tasks", ["document"]) != ["document"]:
        raise ValueError(f"{source}: keep_only_token_ids and skiplist_tasks of queries have no counterpart here.")
    expansion = transformer.get("query_expansion")
    tokenizer = _tokenizer(source)
    if expansion and (expansion["strategy"] != "fixed" or expansion.get("token") not in (None, tokenizer.mask_token)):
        raise ValueError(f"{source}: expected query_expansion with strategy 'fixed' and mask tokens, got {expansion}.")
    longest = min(tokenizer.model_max_length, AutoConfig.from_pretrained(source).max_position_embeddings)
    prompts = config.get("prompts") or {}
    query_marker, query_prefix = _split_prompt(tokenizer, prompts.get("query") or "")
    document_marker, document_prefix = _split_prompt(tokenizer, prompts.get("document") or "")
    settings = {
        "query_marker": query_marker,
        "document_marker": document_marker,
        "query_prefix": query_prefix,
        "document_prefix": document_prefix,
        "score_prefix": True,
        "query_length": expansion["length"] if expansion else transformer.get("query_length") or longest,
        "document_length": transformer.get("document_length") or longest,
        "query_expansion": "mask" if expansion else "none",
        "attend_to_expansion": bool(expansion and expansion.get("attend")),
    }
    return _from_modules(source, settings, masking.get("skiplist_words") or [])


def read_encoder(source: Path, _: str | None) -> ForeignCheckpoint:
    """Read a bare encoder, or a masked language model, to put a new projection on."""
    return ForeignCheckpoint(read_weights(source), AutoConfig.from_pretrained(source), _tokenizer(source), {})


READERS = dict(
    zip(FORMATS, (read_primeqa, read_pylate, read_sentence_transformers, read_stanford, read_encoder), strict=True)
)

PUNCTUATION_NOTE = (
    "skip_punctuation: here documents leave out every sign, there those of a list; texts with other signs differ."
)


def read_weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    """Read the weights of a folder, in one file or in shards, safetensors or a pickle of tensors."""
    for index in (f"{name}.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).exists():
            shards = sorted(set(_json(folder / index)["weight_map"].values()))
            return {key: tensor for shard in shards for key, tensor in load_tensors(folder / shard).items()}
    for file in (f"{name}.safetensors", "pytorch_model.bin"):
        if (folder / file).exists():
            return load_tensors(folder / file)
    raise ValueError(f"{folder}: expected {name}.safetensors or pytorch_model.bin, found neither.")


def load_tensors(path: Path) -> dict[str, Any]:
    """Load safetensors, or a pickle of tensors and plain values.

    Raises:
        ValueError: if the pickle asks for anything else; nothing of it is executed.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).split("GLOBAL ", 1)[-1].split("\n")[0][:200]
        raise ValueError(
            f"{path}: refused. It is no pickle of tensors and plain values ({reason}); nothing of it was executed. "
            "Ask its author for safetensors."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary, got {type(content).__name__}. Is it another format?")
    return content


def _from_modules(source: Path, settings: Json, skiplist: list[str]) -> ForeignCheckpoint:
    """Read encoder and projection of a folder with `modules.json`; several linear layers become one."""
    modules = _json(source / "modules.json")
    weights = read_weights(source / modules[0]["path"])
    projection = None
    for module in modules[1:]:
        if module["type"].rsplit(".", 1)[-1] != "Dense":
            continue
        dense = _json(source / module["path"] / "config.json")
        bent = not str(dense.get("activation_function", "Tanh")).endswith("Identity")
        if dense.get("bias", True) or dense.get("use_residual") or bent:
            raise ValueError(
                f"{source / module['path']}: expected a linear layer without bias, activation and residual, got "
                f"{dense}. Our projection is one matrix."
            )
        matrix = _only(list(read_weights(source / module["path"]).values()), source / module["path"])
        projection = matrix if projection is None else matrix @ projection
    if projection is None:
        raise ValueError(f"{source}: expected a Dense module, got {[module['type'] for module in modules]}.")
    settings["skip_punctuation"] = bool(skiplist)
    notes = [PUNCTUATION_NOTE] if skiplist else []
    if settings["query_prefix"] or settings["document_prefix"]:
        notes.append("prefixes: put before every text here; PyLate does so only where `prompt_name` asks for it.")
    encoder = {key: tensor for key, tensor in weights.items() if key != "linear.weight"}
    return ForeignCheckpoint(
        {**encoder, "linear.weight": projection},
        AutoConfig.from_pretrained(source),
        _tokenizer(source),
        settings,
        notes,
    )


def _split_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[str | None, str]:
    """Split a prompt into a marker, which the tokenizer keeps whole, and a prefix."""
    added = sorted((token for token in tokenizer.get_added_vocab() if prompt.startswith(token)), key=len)
    if not added:
        return None, prompt
    rest = prompt[len(added[-1]) :]
    return added[-1], rest if rest.strip() else ""


def _tokenizer(source: Any) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(source)


def _only(items: list[Any], place: Path) -> Any:
    if len(items) != 1:
        raise ValueError(f"{place}: expected one, got {len(items)}. Name the file itself.")
    return items[0]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
