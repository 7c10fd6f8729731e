"""Configuration of a DR.DECR model: the encoder's own configuration and the width of the projection.

On disk the configuration is flat: `config.json` is the encoder's own, with its own `model_type`, and one more key
`"drdecr"` that holds our fields. Loaders that know nothing of this package (Stanford ColBERT, PyLate,
sentence-transformers) then find an ordinary encoder; this class folds the file back into an encoder configuration and
our fields. How texts become tokens is the processor's business and kept in `processor_config.json`.
"""

from dataclasses import fields
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

ON_DISK_KEY = "drdecr"
FORMAT_VERSION = 1
"""Raised when a checkpoint of this version would give other embeddings, or none, under the code of the one before."""


def encoder_settings(model_type: str) -> set[str]:
    """Return the names of the fields that a kind of encoder has beyond those of every configuration."""
    if model_type not in CONFIG_MAPPING:
        return set()
    kind = CONFIG_MAPPING[model_type]
    common = {field.name for field in fields(PreTrainedConfig)}
    settings = ({field.name for field in fields(kind)} | set(kind.attribute_map)) - common
    return settings | {"is_causal"} if is_decoder(model_type) else settings


def is_decoder(model_type: str) -> bool:
    """Whether a kind of encoder is a language model that reads from left to right, such as Qwen3, Llama or Gemma."""
    return (
        model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and not getattr(CONFIG_MAPPING[model_type], "is_encoder_decoder", False)
    )


UNFIT = {"fnet": "it mixes padding into every token, so a text's vectors depend on the batch that it is in"}
"""Kinds of encoders that cannot be one here, and why."""


class DrDecrConfig(PreTrainedConfig):
    """Configuration of `DrDecrModel` and `DrDecrTeacher`.

    Args:
        encoder_config: configuration of the encoder, as an object, a dictionary with a `model_type`, or None for the
            paper's XLM-R base.
        embedding_dim: width of a token embedding after the projection (default 128, the paper's).

    A decoder (Qwen3, Llama, Gemma ...) reads in both directions unless its configuration says `is_causal: true`; of an
    encoder-decoder (T5, BART, NLLB ...) the encoder alone is used.

    Raises:
        ValueError: if `embedding_dim` is not a positive integer, or for a kind of encoder that cannot be one (`UNFIT`).
    """

    model_type = "drdecr"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="xlm-roberta")}  # noqa: RUF012

    encoder_config: Any = None
    embedding_dim: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the encoder's configuration and check our fields."""
        super().__post_init__(**kwargs)
        if isinstance(self.embedding_dim, bool) or not isinstance(self.embedding_dim, int) or self.embedding_dim < 1:
            raise ValueError(
                f"embedding_dim: expected a positive integer, got {self.embedding_dim!r}. The paper's width is 128."
            )
        kind = self.encoder_config.model_type
        if kind in UNFIT:
            raise ValueError(
                f"A {kind!r} encoder cannot be used: {UNFIT[kind]}. Take another encoder (docs/encoders.md)."
            )
        # A token that sees only what stands before it cannot tell which meaning of a word is meant.
        if is_decoder(kind) and getattr(self.encoder_config, "is_causal", None) is None:
            self.encoder_config.is_causal = False

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's hidden states (asked for by DeepSpeed and by peft)."""
        return self.encoder_config.hidden_size

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return the encoder's configuration."""
        return self.encoder_config.get_text_config(decoder=decoder, encoder=encoder)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.json` of a DR.DECR checkpoint or of a bare encoder, and fold the flat form."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls._fold(config_dict), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from the flat or the nested form; `kwargs` may set ours and the encoder's fields."""
        folded = cls._fold(config_dict)
        encoder = folded.get("encoder_config") or {}
        encoder = encoder.to_dict() if isinstance(encoder, PreTrainedConfig) else encoder
        settings = encoder_settings(encoder.get("model_type", "xlm-roberta"))
        theirs = {key: kwargs.pop(key) for key in list(kwargs) if key in settings}
        if theirs:  # else they would be set on this configuration, where no encoder looks
            folded["encoder_config"] = {"model_type": "xlm-roberta", **encoder, **theirs}
        return super().from_dict(folded, **kwargs)

    @classmethod
    def _fold(cls, config_dict: dict[str, Any]) -> dict[str, Any]:
        if "encoder_config" in config_dict or config_dict.get("model_type", cls.model_type) == cls.model_type:
            return dict(config_dict)
        encoder = dict(config_dict)
        ours = dict(encoder.pop(ON_DISK_KEY, {}))
        version = ours.pop("format_version", 1)
        if version > FORMAT_VERSION:
            raise ValueError(
                f"This checkpoint is of format {version}; this version of drdecr reads formats up to {FORMAT_VERSION}. "
                "Update it (`pip install --upgrade drdecr`), or open the checkpoint with the code that travels with it "
                "(`AutoModel` with `trust_remote_code=True`, in a process that does not import drdecr)."
            )
        shared: dict[str, Any] = {
            key: encoder.pop(key) for key in ("auto_map", "transformers_version") if key in encoder
        }
        encoder.pop("architectures", None)
        if "dtype" in encoder:
            shared["dtype"] = encoder["dtype"]
        return {**shared, **ours, "model_type": cls.model_type, "encoder_config": encoder}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the flat form that is written to `config.json`."""
        ours = super().to_diff_dict()
        encoder = self.encoder_config.to_diff_dict()
        encoder.pop("_name_or_path", None)
        for key in ("encoder_config", "model_type", "architectures"):
            ours.pop(key, None)
        shared = {
            key: ours.pop(key) for key in ("auto_map", "transformers_version", "dtype") if ours.get(key) is not None
        }
        # Written even where it is the default: it tells our checkpoints apart.
        ours["embedding_dim"] = self.embedding_dim
        ours["format_version"] = FORMAT_VERSION
        # Stanford ColBERT, PyLate and sentence-transformers recognise a ColBERT checkpoint by this architecture.
        return {**encoder, **shared, "architectures": ["HF_ColBERT"], ON_DISK_KEY: ours}
