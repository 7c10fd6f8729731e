"""LoRA adapters on a student: small weights beside a backbone that stays as it is, and that can be its own teacher.

A `PeftModel` forwards every name that it does not know to the student inside it, so `encode_queries`,
`encode_documents`, `score` and `processor` are there, and read with whatever adapter is on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import ModelCardData
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from drdecr.modeling_drdecr import DrDecrModel, DrDecrOutput
from drdecr.modeling_drdecr.hub_drdecr import TAGS, push_saved

PROJECTION = "linear"
TARGETS: dict[str, Any] = {
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "camembert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "xlm": ["q_lin", "v_lin"],
    "xlm-roberta-xl": ["query", "value"],
}
"""Layers that get an adapter, by the encoder's `model_type`: queries and values of attention, as in the LoRA paper."""


CARD = """---
{front_matter}
---

# {title}

An adapter (LoRA) of the ColBERT model `{base}`: a small part of its weights, which needs the rest.

## How to use

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)  # loads `{base}` too
questions = model.encode_queries(["..."])
passages = model.encode_documents(["...", "..."])
scores = model.score(questions, passages)  # (questions, passages), higher is better
```

Nothing is said here about how it was trained and what it is worth, since whoever pushed it has not written it down.
"""


@dataclass
class LoraSettings:
    """The `lora` block of a recipe.

    Args:
        rank: of each update (default 16; the paper's RoBERTa runs use 8).
        alpha: the update is scaled by `alpha / rank` (default 32, twice the rank).
        dropout: before each update, in training (default 0.05).
        target_modules: names of the layers that get an adapter; default: chosen by the encoder's type (`TARGETS`).
        merge: whether a run writes the merged model beside its adapter (default True).

    Raises:
        ValueError: for a rank or alpha that is not positive, or a dropout outside [0, 1).
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    target_modules: list[str] | None = None
    merge: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1 or not self.alpha > 0:
            raise ValueError(
                f"lora: expected a positive whole rank and a positive alpha, got {self.rank!r}, {self.alpha!r}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora: expected a dropout from 0 to below 1, got {self.dropout!r}.")


def add_adapter(model: DrDecrModel, settings: LoraSettings | None = None, revision: str | None = None) -> PeftModel:
    """Freeze a student and lay a fresh adapter over it; the projection is trained with it, as a copy of its own.

    Args:
        model: the student; it is changed in place. Untrained, the adapter changes no output.
        settings: default: those of `LoraSettings`.
        revision: of the model, if it came from the Hub: the adapter only fits the weights that it was trained on.

    Returns:
        The student inside a `PeftModel`.

    Raises:
        ValueError: for an encoder without linear layers, without `target_modules`.
    """
    settings = settings or LoraSettings()
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules or default_targets(model),
        modules_to_save=[PROJECTION],
    )
    base = str(model.name_or_path)
    adapted = get_peft_model(model, config)
    if os.path.isdir(base):  # a relative path would only be found from the folder that the training was started in
        base, revision = os.path.abspath(base), None
    name_base(adapted, base, revision)
    return adapted


class AdaptersOffTeacher:
    """The student's own backbone as teacher: adapters and the projection's copy are off, so it never changes.

    Takes the place of a `DrDecrTeacher`, for the memory of one model. It is no module: nothing of it is saved,
    optimised, moved or wrapped a second time.

    Args:
        model: the student under training, inside its `PeftModel`.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self.config, self.processor = model.config, model.processor

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the backbone."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.model.device

    def __call__(self, **inputs: Any) -> DrDecrOutput:
        """Encode as a `DrDecrTeacher` does."""
        # In the backbone's own precision: Accelerate lets the student, not a teacher, compute under autocast.
        forward = getattr(self.model, "_original_forward", self.model)
        with self._off():
            return forward(**inputs)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that it reads with, without those of any adapter."""
        weights = self.model.state_dict()
        return {name: weight for name, weight in weights.items() if not ("lora_" in name or "modules_to_save" in name)}

    def encode_queries(self, texts: list[str], **kwargs: Any) -> list[Tensor]:
        """Encode questions; as in `DrDecrModel`."""
        with self._off():
            return self.model.encode_queries(texts, **kwargs)

    def encode_documents(self, texts: list[str], **kwargs: Any) -> list[Tensor]:
        """Encode passages; as in `DrDecrModel`."""
        with self._off():
            return self.model.encode_documents(texts, **kwargs)

    @contextmanager
    def _off(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()  # a teacher with dropout teaches noise
        try:
            with torch.no_grad(), use_adapter(self.model, None):
                yield
        finally:
            self.model.train(was_training)


@contextmanager
def use_adapter(model: PeftModel, name: str | None) -> Iterator[PeftModel]:
    """Read with one of a model's adapters, then go back to the one before: an adapter a request.

    The switch belongs to the model, not to the thread: serve one request at a time, or name the adapter of each row in
    the forward call (`model(**batch, adapter_names=["fi", "__base__"])`).

    Args:
        model: with its adapters loaded (`PeftModel.from_pretrained(base, folder, adapter_name="fi")`, `load_adapter`).
        name: the adapter's; None for the backbone alone.

    Raises:
        ValueError: for an adapter that is not loaded.
    """
    if name is not None and name not in model.peft_config:
        raise ValueError(
            f"adapter: expected one of {', '.join(model.peft_config)}, got {name!r}. Load it with `model.load_adapter`."
        )
    before, trainable = model.active_adapter, {id(weight) for weight in model.parameters() if weight.requires_grad}
    try:
        if name is None:
            with model.disable_adapter():
                yield model
        else:
            model.set_adapter(name)
            yield model
    finally:
        if name is not None:
            model.set_adapter(before)
        for weight in model.parameters():  # peft makes an adapter trainable that is switched on
            weight.requires_grad_(id(weight) in trainable)


def load_merged(source: str, revision: str | None = None) -> DrDecrModel:
    """Load an adapter's folder or repository and its base, as one ordinary model in float32.

    Args:
        source: folder or Hub name of the adapter.
        revision: of the adapter; that of the base is written in the adapter.
    """
    config = PeftConfig.from_pretrained(source, revision=revision)
    base, revision_of_base = config.base_model_name_or_path, config.revision or "main"
    model = DrDecrModel.from_pretrained(base, revision=revision_of_base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, source, revision=revision).merge_and_unload()
    return merged.requires_grad_(True)  # peft has frozen it, and it is an ordinary model now


def name_base(model: PeftModel, base: str, revision: str | None = None) -> None:
    """Say where the adapters' base is found, for whoever loads them: a Hub name and its revision, or a folder."""
    for config in model.peft_config.values():
        config.base_model_name_or_path, config.revision = base, revision


def push_adapter(model: PeftModel, repo_id: str, base: str | None = None, **kwargs: Any) -> Any:
    """Push a model's adapters to the Hub, in one commit, with a card where the repository has none.

    Args:
        model: with its adapters; one that is named `default` stands at the root, others in folders of their names.
        repo_id: where they go.
        base: Hub name of the base, pushed before; default: where it was loaded from.
        **kwargs: as of `PeftModel.push_to_hub` (`private`, `token`, `commit_message`, `revision` ...).

    Returns:
        The commit.

    Raises:
        ValueError: if the base is a folder: nobody else could open the adapter.
        HubError: if the Hub refuses or cannot be reached.
    """
    if base is not None:
        name_base(model, base)
    named = check_base(next(iter(model.peft_config.values())).base_model_name_or_path)
    data = ModelCardData(
        library_name="peft", pipeline_tag="sentence-similarity", tags=[*TAGS, "lora"], base_model=named
    )

    def card(repo_id: str) -> str:
        title = repo_id.split("/")[-1]
        return CARD.format(front_matter=data.to_yaml(), title=title, base=named, repo_id=repo_id)

    return push_saved(model, repo_id, card, **{"commit_message": "Upload adapter", **kwargs})


def check_base(named: str | None) -> str:
    """Check that the base of an adapter has a name that others can open.

    Raises:
        ValueError: for a folder, or no name.
    """
    if not named or os.path.isabs(named) or os.path.isdir(named):
        raise ValueError(
            f"base: expected the Hub name of the model below the adapter, got {named!r}. Push that model first, then "
            "start from its name, or name it: `push_adapter(model, repo_id, base='user/name')`."
        )
    return named


def default_targets(model: DrDecrModel) -> Any:
    """Return the layers of a model that get an adapter, by its encoder's type.

    Returns:
        Names of layers: queries and values of attention where the type is known, else all linear layers of the encoder.

    Raises:
        ValueError: for an encoder without linear layers.
    """
    kind = model.config.encoder_config.model_type
    if kind in TARGETS:
        return TARGETS[kind]
    prefix = model.base_model_prefix
    layers = [name for name, layer in model.encoder.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(f"lora: a {kind!r} encoder has no linear layers. Give `target_modules`.")
    return [f"{prefix}.{name}" for name in layers]  # all linear layers but the projection
