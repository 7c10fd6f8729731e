"""Student and teacher: any transformers encoder, a bias-free projection, one L2-normalised vector a token."""

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, logging

from .configuration_drdecr import DrDecrConfig
from .encoding_drdecr import encode_texts, pad_embeddings
from .hub_drdecr import STALE, hub_errors, hub_name, model_card, push_saved
from .interop_drdecr import write_loader_files
from .processing_drdecr import DrDecrProcessor
from .scoring_drdecr import maxsim

logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("push_to_hub", "repo_id", "commit_message", "create_pr", "private", "revision", "token")
"""Arguments of `save_pretrained` that concern its push."""


@dataclass
class DrDecrOutput(ModelOutput):
    """Output of `DrDecrModel`.

    Args:
        embeddings: `(batch, tokens, embedding_dim)`, L2-normalised for every token, padding included: what counts is
            said by the processor's `scoring_mask`, never by zeros.
        last_hidden_state: `(batch, tokens, hidden_size)`, the encoder's output before the projection.
        hidden_states: the encoder's hidden states, with `output_hidden_states=True`.
        attentions: the encoder's attentions, with `output_attentions=True`.
    """

    embeddings: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class DrDecrPreTrainedModel(PreTrainedModel):
    """Weights, attention back ends and the processor that belongs to a checkpoint."""

    config: DrDecrConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: list[str] = []  # noqa: RUF012  # post_init merges the encoder's

    _processor: Any = None

    @property
    def processor(self) -> Any:
        """The `DrDecrProcessor` of the checkpoint or of its user; None where neither brought one."""
        return self._processor

    @processor.setter
    def processor(self, processor: Any) -> None:
        """Join a processor to the model.

        Raises:
            ValueError: if it makes longer texts than the encoder has positions for, or expansion tokens that the encoder's
                attention leaves out.
        """
        if processor is not None:
            check_lengths(self, processor)
            check_expansion(self.config, processor)
        self._processor = processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a DR.DECR checkpoint, or a bare encoder under a new projection, with its processor.

        Takes what `PreTrainedModel.from_pretrained` takes. The processor comes from the same place and the same
        revision; it is what `encode_queries` and `encode_documents` use.

        Raises:
            HubError: if the Hub refuses, cannot be reached, or knows no such name.
        """
        with hub_errors(str(pretrained_model_name_or_path), kwargs.get("token")):
            return cls._from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        # Copied because the parent takes the entries out. They say where the files are: the processor needs them too.
        where = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder", "proxies")
        source = {key: kwargs[key] for key in where if kwargs.get(key) is not None}
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except UnpicklingError as error:
            raise ValueError(
                f"{pretrained_model_name_or_path}: expected weights, got a pickle that holds other things, which may run code. "
                "Get the checkpoint again, with `model.safetensors`."
            ) from error
        model, info = loaded
        output = loaded if wants_info else model
        if pretrained_model_name_or_path is not None:
            has_adapter = getattr(model, "_hf_peft_config_loaded", False)
            is_ours = False
            if not has_adapter:
                is_ours = "embedding_dim" in DrDecrConfig.get_config_dict(pretrained_model_name_or_path, **source)[0]
                _check_whole(str(pretrained_model_name_or_path), info, is_ours)
            # A bare encoder's texts are cut to what it has positions for.
            room = None if is_ours or has_adapter else num_positions(model.encoder)
            model.processor = DrDecrProcessor.load_if_there(
                pretrained_model_name_or_path, has_settings=is_ours, max_length=room, **source
            )
            if model.processor is None and has_adapter:
                # The folder of an adapter holds no processor: it is that of the model below.
                below: Any = next(iter(model.peft_config.values()))
                source["revision"] = below.revision or "main"
                model.processor = DrDecrProcessor.load_if_there(below.base_model_name_or_path, **source)
        return output

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Save weights, configuration, modelling code and the processor, if there is one: a folder that loads alone.

        With a processor, sentence-transformers, PyLate and Stanford ColBERT open the folder as well; a warning names
        the settings that they cannot express (`loader_limits`).
        """
        hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
        # Taken first: the parent empties the state that it is given.
        projection = (kwargs.get("state_dict") or self.state_dict()).get("linear.weight")
        given_class = type(self)
        # FSDP2 gives a model that it shares out a class of torch's, and that one's code would be saved in the place of ours.
        self.__class__ = next(base for base in given_class.__mro__ if not base.__module__.startswith("torch."))
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.__class__ = given_class
        if not kwargs.get("is_main_process", True):
            return
        if self.processor is not None:
            self.processor.save_pretrained(os.fspath(save_directory))
            if projection is not None:
                write_loader_files(os.fspath(save_directory), self.processor, projection)
        if hub.pop("push_to_hub", False):  # here and not by the parent, which pushes before the folder is whole
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:  # type: ignore[override]
        """Push what `save_pretrained` writes, in one commit, with a card where the repository has none.

        The card says how to use the model and, where it was loaded from the Hub, by which name: transformers' own is a
        form to be filled in. Arguments are those of transformers (`hub_drdecr.push_saved`).
        """

        def card(repo_id: str) -> str:
            base_model = hub_name(str(self.config._name_or_path))
            return model_card(repo_id, base_model if base_model != repo_id else None)

        return push_saved(self, repo_id, card, stale=STALE, **kwargs)


class DrDecrModel(DrDecrPreTrainedModel):
    """Multilingual ColBERT: one encoder for queries and documents and a projection (paper, section 3; the student).

    The encoder sits under the attribute name that transformers gives it (`bert`, `roberta`, `model` ...), so that the
    weights of a bare encoder, of a masked language model and of a Stanford ColBERT checkpoint load without renaming.

    Args:
        config: the configuration.
    """

    def __init__(self, config: DrDecrConfig) -> None:
        super().__init__(config)
        encoder = AutoModel.from_config(config.encoder_config, **_without_pooler(config.encoder_config))
        if config.encoder_config.is_encoder_decoder:
            _drop_decoder(encoder)
            self._keys_to_ignore_on_load_unexpected = [r"^(model\.)?decoder\.", r"^lm_head", r"^final_logits_bias"]
        self.base_model_prefix = encoder.base_model_prefix
        setattr(self, self.base_model_prefix, encoder)
        self.linear = nn.Linear(config.encoder_config.hidden_size, config.embedding_dim, bias=False)
        self.post_init()

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder below the projection."""
        return getattr(self, self.base_model_prefix)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's word embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's word embeddings."""
        self.encoder.set_input_embeddings(value)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> DrDecrOutput:
        """Encode tokens into L2-normalised embeddings.

        Args:
            input_ids: `(batch, tokens)`; or `inputs_embeds` in their place, `(batch, tokens, hidden_size)`.
            attention_mask: `(batch, tokens)`, true or 1 where the encoder may look; default everywhere.
            **kwargs: passed to the encoder (`output_hidden_states`, `position_ids` ...). `scoring_mask` and
                `text_mask`, which the processor returns beside these, are not the encoder's business and are left out.

        Returns:
            `DrDecrOutput`.
        """
        for name in ("scoring_mask", "text_mask", "return_dict"):
            kwargs.pop(name, None)
        if attention_mask is not None:
            attention_mask = attention_mask.to(torch.long)  # not every encoder takes a boolean mask
        encoder: Any = self.encoder.get_encoder() if self.config.encoder_config.is_encoder_decoder else self.encoder
        output = encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        hidden = output.last_hidden_state  # (batch, tokens, hidden_size)
        embeddings = nn.functional.normalize(self.linear(hidden.to(self._projection_dtype(hidden))), dim=-1)
        return DrDecrOutput(
            embeddings=embeddings,
            last_hidden_state=hidden,
            hidden_states=getattr(output, "hidden_states", None),
            attentions=getattr(output, "attentions", None),
        )

    def _projection_dtype(self, hidden: Tensor) -> torch.dtype:
        """Return what the projection computes in: of a quantised one, whose weight holds integers, what comes in."""
        weight: Any = getattr(self.linear, "weight", None)  # of torch.ao's modules it is a method
        return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else hidden.dtype

    def encode_queries(
        self, texts: list[str], batch_size: int = 32, show_progress_bar: bool | None = None
    ) -> list[Tensor]:
        """Encode questions, in any language.

        Args:
            texts: the questions; an empty list gives an empty list.
            batch_size: texts a forward pass (default 32). Batches are formed of texts of like length.
            show_progress_bar: default: only for more than one batch, and only on a terminal.

        Returns:
            One float32 CPU tensor `(scoring tokens, embedding_dim)` a text, in the order given.

        Raises:
            ValueError: if `texts` is not a list of strings, or if the model has no processor.
        """
        return encode_texts(self, self._needs_processor().process_queries, texts, batch_size, show_progress_bar)

    def encode_documents(
        self, texts: list[str], batch_size: int = 32, show_progress_bar: bool | None = None
    ) -> list[Tensor]:
        """Encode passages; arguments, result and errors as in `encode_queries`. Punctuation is left out."""
        return encode_texts(self, self._needs_processor().process_documents, texts, batch_size, show_progress_bar)

    def score(self, query_embeddings: list[Tensor], document_embeddings: list[Tensor]) -> Tensor:
        """Score every query against every document with MaxSim.

        Args:
            query_embeddings: what `encode_queries` returned, not empty.
            document_embeddings: what `encode_documents` returned, not empty.

        Returns:
            float32 `(num_queries, num_documents)`.
        """
        queries, query_mask = pad_embeddings(query_embeddings)
        documents, document_mask = pad_embeddings(document_embeddings)
        return maxsim(queries, documents, query_mask, document_mask)

    def _needs_processor(self) -> DrDecrProcessor:
        if self.processor is None:
            raise ValueError(
                "This model has no processor, so it cannot read text. Load model and processor from one folder with "
                "`from_pretrained`, or set `model.processor = DrDecrProcessor(tokenizer)`."
            )
        return self.processor


class DrDecrTeacher(DrDecrModel):
    """A frozen `DrDecrModel`: no gradient, always in evaluation mode (the paper's English ColBERT).

    Its checkpoint is that of a `DrDecrModel`; either class opens it.
    """

    def __init__(self, config: DrDecrConfig) -> None:
        super().__init__(config)
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as `DrDecrModel.from_pretrained` does, and freeze: loading makes new, trainable parameters."""
        output = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (output[0] if isinstance(output, tuple) else output).requires_grad_(False)
        return output

    def train(self, mode: bool = True) -> "DrDecrTeacher":
        """Stay in evaluation mode, whatever is asked: a teacher with dropout teaches noise."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> DrDecrOutput:
        """Encode as `DrDecrModel.forward` does, without recording gradients."""
        return super().forward(input_ids, attention_mask, **kwargs)


def _check_whole(name: str, info: dict[str, Any], is_ours: bool) -> None:
    """Check that a checkpoint held every weight: the others are drawn anew at each loading, so it would be another model.

    Args:
        name: of the checkpoint.
        info: of the loading: `missing_keys`.
        is_ours: whether it should hold a projection.

    Raises:
        ValueError: naming the missing weights.
    """
    missing = sorted(key for key in info["missing_keys"] if is_ours or key != "linear.weight")
    if missing:
        some = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{name}: expected a whole checkpoint, got one without {len(missing)} weights ({some}). Get or save it again."
        )


def check_lengths(model: Any, processor: Any) -> None:
    """Check that an encoder has a position for every token of the longest texts.

    Raises:
        ValueError: naming the length and the number of positions.
    """
    positions = num_positions(model.encoder)
    if positions is None:
        return
    for name in ("query_length", "document_length"):
        length = getattr(processor, name)
        if length > positions:
            kind = model.config.encoder_config.model_type
            raise ValueError(
                f"{name}: expected at most {positions}, the positions of this {kind!r} encoder, got {length}. Make the processor "
                f"with a smaller {name}."
            )


def num_positions(encoder: PreTrainedModel) -> int | None:
    """Return how many tokens an encoder has learned positions for; None where positions are computed."""
    limits = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2] and "relative" not in name:
            # RoBERTa's kind counts from behind the padding's position, BART's from an offset.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - max(skipped, getattr(module, "offset", 0)))
            limits.append(getattr(encoder.config, "max_position_embeddings", None) or limits[-1])
    return min(limits) if limits else None


def check_expansion(config: DrDecrConfig, processor: Any) -> None:
    """Check that expansion tokens, which no token looks at, are computed at all.

    Raises:
        ValueError: for flash attention, which leaves such tokens out, and for DeBERTa, which empties them: they would be one
            vector for every question.
    """
    if not (processor.query_expansion == "mask" or processor.legacy_primeqa) or processor.attend_to_expansion:
        return
    kind, attention = config.encoder_config.model_type, str(config._attn_implementation or "")
    if "flash" in attention or kind in ("deberta", "deberta-v2"):
        cause = f"attention {attention!r}" if "flash" in attention else f"a {kind!r} encoder"
        raise ValueError(
            f"query_expansion: expected tokens that {cause} computes, got some that nothing attends to; they would be equal for "
            "every question. Set `attend_to_expansion: true`, or load with attn_implementation='sdpa'."
        )


def _drop_decoder(model: Any) -> None:
    """Take the decoder out of an encoder-decoder: the encoder's states are the text's, and half of the weights go."""
    del model.decoder
    for attribute in ("_tied_weights_keys", "all_tied_weights_keys"):
        tied = getattr(model, attribute, None) or {}
        setattr(model, attribute, {name: other for name, other in tied.items() if not name.startswith("decoder.")})


def _without_pooler(encoder_config: PreTrainedConfig) -> dict[str, bool]:
    """Leave the pooler out where there is one: it gets no gradient, which distributed training takes for an error."""
    classes: Any = MODEL_MAPPING[type(encoder_config)]
    encoder_class = classes[0] if isinstance(classes, tuple) else classes
    takes_it = "add_pooling_layer" in inspect.signature(encoder_class).parameters
    return {"add_pooling_layer": False} if takes_it else {}
