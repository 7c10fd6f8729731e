"""What the Hub says of a card's metadata, as far as `huggingface_hub` itself knows the rules."""

import re
from typing import Any, get_type_hints

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData, RepoCard, SpaceCard, SpaceCardData
from huggingface_hub.dataclasses import type_validator
from huggingface_hub.errors import HFValidationError, StrictDataclassFieldValidationError
from huggingface_hub.utils import validate_repo_id

CARDS: dict[str, tuple[type[RepoCard], type[Any]]] = {
    "model": (ModelCard, ModelCardData),
    "dataset": (DatasetCard, DatasetCardData),
    "space": (SpaceCard, SpaceCardData),
}
REPOSITORIES = ("base_model", "datasets")
SDKS = ("gradio", "docker", "static", "streamlit")


def problems(kind: str, content: str) -> tuple[list[str], list[str]]:
    """Return errors and warnings for the card of a model, a dataset or a Space."""
    card_class, data_class = CARDS[kind]
    if not re.match(r"^\s*---[\r\n]", content):
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        card_class(content)
    except (ValueError, TypeError) as error:  # no YAML, no mapping, or a `model-index` that lacks a field
        return [str(error)], []
    data = yaml.safe_load(re.split(r"^---\s*$", content, maxsplit=2, flags=re.MULTILINE)[1])  # as written
    return [
        *_wrong_types(data_class, data),
        *_wrong_names(data),
        *_wrong_languages(data),
        *_wrong_parts(kind, data),
    ], []


def _wrong_types(data_class: type[Any], data: dict[str, Any]) -> list[str]:
    """Compare each entry with the type that the client's own class of metadata states for it."""
    hints, found = get_type_hints(data_class.__init__), []
    for name, value in data.items():
        try:
            type_validator(name, value, hints.get(name, Any))
        except (StrictDataclassFieldValidationError, TypeError) as error:
            found.append(f'"{name}": {error}')
    return found


def _wrong_names(data: dict[str, Any]) -> list[str]:
    found = []
    for field in REPOSITORIES:
        for name in _listed(data.get(field)):
            try:
                validate_repo_id(name)
            except HFValidationError as error:
                found.append(f'"{field}" must be names of the Hub. {error}')
    return found


def _wrong_languages(data: dict[str, Any]) -> list[str]:
    """Two or three letters (ISO 639), or a special value, as `ModelCardData` states."""
    wrong = [
        code for code in _listed(data.get("language")) if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(code))
    ]
    return [f'"language" must be an ISO 639-1, 639-2 or 639-3 code, got {code!r}' for code in wrong]


def _wrong_parts(kind: str, data: dict[str, Any]) -> list[str]:
    found = []
    for model in data.get("model-index") or []:
        values = [metric.get("value") for result in model["results"] for metric in result["metrics"]]
        found += ['"model-index[].results[].metrics[].value" is required'] if None in values else []
    for config in data.get("configs") or []:
        found += [f'"configs[].{key}" is required' for key in ("config_name", "data_files") if not config.get(key)]
    if kind == "space" and data.get("sdk") not in SDKS:
        found.append(f'"sdk" must be one of {", ".join(SDKS)}, got {data.get("sdk")!r}')
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
