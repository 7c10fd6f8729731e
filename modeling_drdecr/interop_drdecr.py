"""What other libraries read beside our files: sentence-transformers, PyLate and Stanford ColBERT open the same folder.

The weights are shared; only settings are written a second time, in each loader's own words, and the projection, which
sentence-transformers and PyLate keep in a folder of its own. What a loader has no words for is said by `loader_limits`.
"""

import copy
import json
import string
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import AddedToken

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
]
"""The list of modules as PyLate writes it. sentence-transformers 6 reads it too and adds its mask and normalisation."""

OUR_CONFIG = "config.5.17.0.json"
"""The configuration for transformers that can run our code: `configuration_files` of `config.json` sends it here."""

_past_warnings: set[str] = set()
"""Warnings of this process: a training saves its checkpoint many times, with the same differences each time."""

PROBES = ("a", "What is", "7 .", "на русском", "日本語", "(x)")
"""Texts that show whether a marker written as text splits like a marker put in as a token."""


@dataclass
class _Facts:
    """What a vocabulary says about a processor's settings; costs a second for 250,000 tokens, so it is found once.

    Args:
        punctuation: token ids without letter or digit: whether punctuation, None for bytes of a character.
        separators: per side what stands between a marker written as text and the text; None if nothing does it.
    """

    punctuation: dict[int, bool | None]
    separators: dict[str, str | None]


def write_loader_files(folder: Any, processor: Any, projection: Tensor) -> None:
    """Write the files by which other libraries open a checkpoint, and warn, once a process, of what they cannot express.

    Args:
        folder: where `save_pretrained` has written the checkpoint and the processor.
        processor: the `DrDecrProcessor` whose settings are written down.
        projection: `linear.weight`, `(embedding_dim, hidden_size)`.
    """
    folder, facts = Path(folder), _facts(processor)
    write_projection(folder / "1_Dense", projection)
    _write_json(folder / "modules.json", MODULES)
    _write_json(folder / "config_sentence_transformers.json", pylate_settings(processor, facts))
    if _has_markers(processor):
        _write_for_stanford(folder, stanford_settings(processor, len(projection)))
    else:
        (folder / "artifact.metadata").unlink(missing_ok=True)
        (folder / OUR_CONFIG).unlink(missing_ok=True)
    limits = _limits(processor, facts)
    message = "Other libraries open this checkpoint, with these differences:\n" + "\n".join(f"- {it}" for it in limits)
    if limits and message not in _past_warnings:
        _past_warnings.add(message)
        warnings.warn(message, stacklevel=3)


def loader_limits(processor: Any) -> list[str]:
    """Say which settings of a processor another library cannot express, one sentence each: loader, setting, effect."""
    return _limits(processor, _facts(processor))


def write_projection(folder: Path, projection: Tensor) -> None:
    """Write `linear.weight` as the `Dense` module of PyLate and sentence-transformers."""
    folder.mkdir(exist_ok=True)
    output_size, input_size = projection.shape
    settings = {"in_features": input_size, "out_features": output_size, "bias": False, "use_residual": False}
    _write_json(folder / "config.json", {**settings, "activation_function": "torch.nn.modules.linear.Identity"})
    weights = {"linear.weight": projection.detach().cpu().clone()}  # a clone: views of a larger buffer are refused
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_for_stanford(folder: Path, settings: dict[str, Any]) -> None:
    """Write `artifact.metadata`, and the other files in the way that transformers 4 reads them.

    colbert-ai 0.2.22 runs with transformers 4 only (transformers 5 needs models to call `post_init`, which its model
    does not), and takes an `auto_map` for the order to run its code. So `config.json` is that of the encoder alone.
    """
    _write_json(folder / "artifact.metadata", settings)
    config = _read_json(folder / "config.json")
    _write_json(folder / OUR_CONFIG, config)
    config.pop("auto_map", None)
    _write_json(folder / "config.json", {**config, "configuration_files": [OUR_CONFIG]})
    tokenizer = _read_json(folder / "tokenizer_config.json")
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"  # its name before transformers 5, which knows both
    if isinstance(tokenizer.get("extra_special_tokens"), list):
        tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
    _write_json(folder / "tokenizer_config.json", tokenizer)


def _limits(processor: Any, facts: _Facts) -> list[str]:
    if processor.legacy_primeqa:
        return [
            "sentence-transformers, PyLate, Stanford ColBERT: legacy_primeqa=True is unknown there; padding does not "
            "take part in MaxSim and `<s>` does, so scores differ."
        ]
    return [*_shared_limits(processor, facts), *_marker_limits(processor, facts), *_stanford_limits(processor, facts)]


def _shared_limits(processor: Any, facts: _Facts) -> list[str]:
    limits, both = [], "sentence-transformers, PyLate"
    if processor.query_prefix or processor.document_prefix:
        if not processor.score_prefix:
            limits.append(f"{both}: score_prefix=False is unknown there; the prefix's tokens take part in MaxSim.")
        limits.append(
            "PyLate: query_prefix and document_prefix are put before a text only with `encode(..., "
            "prompt_name='query')` or `'document'`; otherwise there is none."
        )
    if not processor.score_special_tokens:
        limits.append(
            f"{both}: score_special_tokens=False holds for documents only; special tokens of queries take part in "
            "MaxSim."
        )
    if processor.skip_punctuation and None in facts.punctuation.values():
        limits.append(
            f"{both}, Stanford ColBERT: skip_punctuation=True leaves signs in that this tokenizer splits into bytes."
        )
    return limits


def _marker_limits(processor: Any, facts: _Facts) -> list[str]:
    limits, before = [], processor.special_ids[0]
    if facts.separators and len(before) != 1:
        limits.append(
            "PyLate, Stanford ColBERT: query_marker and document_marker become the second token, and this tokenizer "
            f"starts a text with {len(before)} special tokens, so tokens differ."
        )
    if None in facts.separators.values():
        limits.append(
            "sentence-transformers: query_marker and document_marker are written into the text there, and this "
            "tokenizer splits a text differently after a marker, so tokens differ."
        )
    return limits


def _stanford_limits(processor: Any, facts: _Facts) -> list[str]:
    name = "Stanford ColBERT"
    if not _has_markers(processor):
        return [f"{name}: query_marker=None or document_marker=None is unknown there; it does not open the folder."]
    limits = []
    if processor.query_expansion != "mask":
        limits.append(f"{name}: query_expansion='none' is unknown there; queries are filled with mask tokens.")
    if processor.query_prefix or processor.document_prefix:
        limits.append(
            f"{name}: query_prefix and document_prefix are unknown there; write them before the texts yourself, where "
            "they take part in MaxSim."
        )
    if not processor.score_special_tokens:
        limits.append(f"{name}: score_special_tokens=False is unknown there; special tokens take part in MaxSim.")
    if not processor.skip_punctuation:
        limits.append(f"{name}: skip_punctuation=False makes version 0.2.22 fail on documents.")
    elif _skipped_by_stanford(processor) != {token_id for token_id, skip in facts.punctuation.items() if skip}:
        limits.append(
            f"{name}: skip_punctuation=True knows the first token of each ASCII sign only; other signs take part in "
            "MaxSim, in documents."
        )
    return limits


def pylate_settings(processor: Any, facts: _Facts | None = None) -> dict[str, Any]:
    """Return `config_sentence_transformers.json` of PyLate 1.6; `query_expansion` is read by sentence-transformers."""
    facts = facts or _facts(processor)
    expands = processor.query_expansion == "mask" or processor.legacy_primeqa
    expansion = {
        "strategy": "fixed",
        "attend": processor.attend_to_expansion,
        "token": processor.tokenizer.pad_token if processor.legacy_primeqa else None,
        "length": processor.query_length,
    }
    return {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        # sentence-transformers writes marker and prompt before the text; PyLate puts the marker in as a token.
        "prompts": {
            "query": (facts.separators.get("query") or "") + processor.query_prefix,
            "document": (facts.separators.get("document") or "") + processor.document_prefix,
        },
        "default_prompt_name": None,
        "query_prefix": _token(processor, processor.query_marker),
        "document_prefix": _token(processor, processor.document_marker),
        "query_length": processor.query_length,
        "document_length": processor.document_length,
        "do_query_expansion": expands,
        "attend_to_expansion_tokens": processor.attend_to_expansion,
        "query_expansion": expansion if expands else None,
        "skiplist_words": processor.tokenizer.convert_ids_to_tokens(sorted(_skipped_ids(processor, facts))),
    }


def stanford_settings(processor: Any, embedding_dim: int) -> dict[str, Any]:
    """Return `artifact.metadata`; its `..._token_id` are tokens, not ids."""
    return {
        "query_token_id": _token(processor, processor.query_marker),
        "doc_token_id": _token(processor, processor.document_marker),
        "query_token": "[Q]",  # names that are shown, never tokenised
        "doc_token": "[D]",
        "dim": embedding_dim,
        "query_maxlen": processor.query_length,
        "doc_maxlen": processor.document_length,
        "mask_punctuation": processor.skip_punctuation,
        "attend_to_mask_tokens": processor.attend_to_expansion,
        "similarity": "cosine",
        "interaction": "colbert",
    }


def _has_markers(processor: Any) -> bool:
    return processor.query_marker is not None and processor.document_marker is not None


def _token(processor: Any, marker: str | int | None) -> str:
    """Return a marker as the vocabulary writes it; the empty string, which loaders take for none, without one."""
    return processor.tokenizer.convert_ids_to_tokens(marker) if isinstance(marker, int) else marker or ""


def _facts(processor: Any) -> _Facts:
    punctuation = _punctuation_of_vocabulary(processor) if processor.skip_punctuation else {}
    return _Facts(punctuation, _separators(processor))


def _separators(processor: Any) -> dict[str, str | None]:
    markers = {"query": processor.query_marker, "document": processor.document_marker}
    tokens = {side: _token(processor, marker) for side, marker in markers.items() if marker is not None}
    if not tokens:
        return {}
    marking = copy.deepcopy(processor.tokenizer)  # sentence-transformers makes markers special in its own copy
    marking.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in tokens.values()], special_tokens=True
    )
    before, after = processor.special_ids
    bodies = {probe: processor.tokenizer(probe, add_special_tokens=False)["input_ids"] for probe in PROBES}

    def splits_alike(token: str, separator: str) -> bool:
        head = [*before, processor.tokenizer.convert_tokens_to_ids(token)]
        return all(
            marking(token + separator + probe)["input_ids"] == [*head, *body, *after] for probe, body in bodies.items()
        )

    return {
        side: next((separator for separator in ("", " ") if splits_alike(token, separator)), None)
        for side, token in tokens.items()
    }


def _punctuation_of_vocabulary(processor: Any) -> dict[int, bool | None]:
    ids = [[token_id] for token_id in range(len(processor.tokenizer))]
    # One call for the whole vocabulary: the tokenizer's own `decode`, called 250,000 times, takes seconds.
    pieces = processor.tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False)
    odd = (token_id for token_id, piece in enumerate(pieces) if not any(sign.isalnum() for sign in piece))
    return {token_id: processor.is_punctuation_token(token_id) for token_id in odd}


def _skipped_ids(processor: Any, facts: _Facts) -> set[int]:
    """Return the ids that documents leave out of MaxSim whatever the text."""
    skipped = {token_id for token_id, skip in facts.punctuation.items() if skip}
    if not processor.score_special_tokens:
        skipped |= {*processor.special_ids[0], *processor.special_ids[1]}
        if processor.document_marker is not None:
            skipped.add(processor.tokenizer.convert_tokens_to_ids(_token(processor, processor.document_marker)))
    return skipped


def _skipped_by_stanford(processor: Any) -> set[int]:
    """Return the ids of its list: the first token of each ASCII sign."""
    return {processor.tokenizer(sign, add_special_tokens=False)["input_ids"][0] for sign in string.punctuation}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
