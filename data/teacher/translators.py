"""Translation by models of transformers: sequence to sequence (NLLB, OPUS-MT, M2M, mBART, T5) and chat."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from drdecr.data.languages import LANGUAGES, language_name, spellings
from drdecr.data.schema import check_keys
from drdecr.modeling_drdecr.hub_drdecr import hub_errors
from drdecr.retrieval.encoder import weights_digest
from drdecr.retrieval.retriever import Retriever, TranslateTestRetriever

from .apertium import ApertiumTranslator
from .translation_store import Engine, Translation, Translator

MEAN_LOG_PROBABILITY = "mean log-probability of the translation's tokens"

CHAT_PROMPT = "Translate this text from {source} into {target}. Answer with the translation alone.\n\n{text}"

THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)


class Seq2SeqTranslator:
    """Any `AutoModelForSeq2SeqLM` that translates.

    How it is told the languages is found out from its tokenizer: `src_lang` and a forced first token (NLLB, M2M, mBART), a
    `>>code<<` before the text (multilingual OPUS-MT), or nothing (OPUS-MT of one pair). A text that is longer than the model
    reads (its tokenizer's `model_max_length`) is cut, and its translation says so (`is_cut`).

    Args:
        name: Hub name or folder.
        revision: of the Hub name.
        codes: `{our code: the model's}` where it cannot be found out.
        prompt: put before each text, for models that are told in words: `translate {source} to {target}: ` with the
            languages' names, or `<2{target_code}> `; default: nothing.
        num_beams: default 4.
        max_new_tokens: longest translation (default 256).
        batch_size: texts translated at once (default 16).
        dtype: default float32.
        device: default: the CPU.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        codes: Mapping[str, str] | None = None,
        prompt: str = "",
        num_beams: int = 4,
        max_new_tokens: int = 256,
        batch_size: int = 16,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision, dtype=getattr(torch, dtype))
        self.model: Any = model.to(device).eval()
        self.codes, self.prompt, self.batch_size = dict(codes or {}), prompt, batch_size
        self.generation = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "do_sample": False}
        told = {"codes": self.codes, "prompt": prompt, "dtype": dtype}
        self._engine = Engine(name, _revision(self.model), {**self.generation, **told}, MEAN_LOG_PROBABILITY)

    @property
    def engine(self) -> Engine:
        """The model, its commit or a digest of its weights, and how it generates."""
        return self._engine

    @torch.no_grad()
    def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
        """Translate texts of one language; see `Translator`."""
        prefix, first = self._told(source, target)

        def translated(batch: list[str]) -> list[Translation]:
            asked = [prefix + text for text in batch]
            inputs = self.tokenizer(asked, return_tensors="pt", padding=True, truncation=True)
            is_cut = self._cut(asked, inputs["attention_mask"])
            inputs = inputs.to(self.model.device)
            tokens = self.model.generate(
                **inputs, **self.generation, **({} if first is None else {"forced_bos_token_id": first})
            )
            logits = self.model(**inputs, decoder_input_ids=tokens[:, :-1]).logits
            given = torch.arange(tokens.shape[1], device=tokens.device) < (1 if first is None else 2)
            scores = mean_log_probabilities(logits, tokens[:, 1:], self._written(tokens, given)[:, 1:])
            return _translations(self.tokenizer.batch_decode(tokens, skip_special_tokens=True), scores, is_cut)

        return _in_batches(texts, self.batch_size, translated)

    def _cut(self, texts: list[str], mask: Tensor) -> list[bool]:
        """Return which texts are longer than the model reads; only those that fill it are read again."""
        most = self.tokenizer.model_max_length
        return [
            length >= most and len(self.tokenizer(text, verbose=False)["input_ids"]) > most
            for text, length in zip(texts, mask.sum(dim=1).tolist(), strict=True)
        ]

    def _written(self, tokens: Tensor, given: Tensor) -> Tensor:
        """Return which tokens the model wrote itself: neither those that it was given nor padding."""
        padding = self.tokenizer.pad_token_id
        return (tokens != padding) & ~given

    def _told(self, source: str, target: str) -> tuple[str, int | None]:
        """Return what stands before the text, and the token that a translation is forced to begin with."""
        words = {"source": language_name(source), "target": language_name(target)}
        prefix = self.prompt.format(**words, source_code=source, target_code=target)
        markers = getattr(self.tokenizer, "supported_language_codes", None)
        if markers:
            return f">>{self._code(target, [marker.strip('<>') for marker in markers])}<< {prefix}", None
        if not hasattr(self.tokenizer, "src_lang"):
            self._check_pair(source, target)
            return prefix, None
        self.tokenizer.src_lang = self._code(source)
        code = self._code(target)
        has_own = hasattr(self.tokenizer, "get_lang_id")
        return prefix, self.tokenizer.get_lang_id(code) if has_own else self.tokenizer.convert_tokens_to_ids(code)

    def _code(self, language: str, known: list[str] | None = None) -> str:
        """Return how the model writes a language."""
        if language in self.codes:
            return self.codes[language]
        table = (
            known
            or getattr(self.tokenizer, "lang_code_to_token", None)
            or getattr(self.tokenizer, "lang_code_to_id", None)
        )
        for name in spellings(language):
            if table is None:
                if (
                    self.tokenizer.convert_tokens_to_ids(name) not in (None, self.tokenizer.unk_token_id)
                    and "_" in name
                ):
                    return name
            elif (
                found := next((code for code in table if code == name or code.startswith(f"{name}_")), None)
            ) is not None:
                return found
        raise ValueError(
            f"{self.engine.name}: expected a language that the model knows, got {language!r}. Name it in the model's words: "
            f"`codes: {{{language}: ...}}`."
        )

    def _check_pair(self, source: str, target: str) -> None:
        """Refuse languages other than those that a model of one pair says it was made for."""
        for side, language in (("source_lang", source), ("target_lang", target)):
            own = getattr(self.tokenizer, side, None)
            if (
                isinstance(own, str)
                and any(own in spellings(code) for code in LANGUAGES)
                and own not in spellings(language)
            ):
                raise ValueError(
                    f"{self.engine.name}: expected {own!r} as its {side}, got {language!r}. Name another model."
                )


class ChatTranslator:
    """Any chat model (`AutoModelForCausalLM` whose tokenizer has a chat template) that is asked to translate.

    Args:
        name: Hub name or folder.
        revision: of the Hub name.
        prompt: with `{source}`, `{target}` (the languages' names) and `{text}`.
        max_new_tokens: longest answer (default 256).
        batch_size: texts translated at once (default 8).
        dtype: default float32.
        device: default: the CPU.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        prompt: str = CHAT_PROMPT,
        max_new_tokens: int = 256,
        batch_size: int = 8,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision, padding_side="left")
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"{name}: expected a chat model, got a tokenizer without a chat template. Name another model."
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=getattr(torch, dtype))
        self.model: Any = model.to(device).eval()
        self.prompt, self.batch_size = prompt, batch_size
        self.generation = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
        parameters = {**self.generation, "prompt": prompt, "dtype": dtype, "template": self.tokenizer.chat_template}
        self._engine = Engine(name, _revision(self.model), parameters, MEAN_LOG_PROBABILITY)

    @property
    def engine(self) -> Engine:
        """The model, its commit or a digest of its weights, its prompt and template."""
        return self._engine

    @torch.no_grad()
    def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
        """Translate texts of one language; see `Translator`."""
        words = {"source": language_name(source), "target": language_name(target)}

        def translated(batch: list[str]) -> list[Translation]:
            asked = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": self.prompt.format(**words, text=text)}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                for text in batch
            ]
            # The template has written the special tokens.
            inputs = self.tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False).to(
                self.model.device
            )
            tokens = self.model.generate(**inputs, **self.generation, pad_token_id=self.tokenizer.pad_token_id)
            length = inputs["input_ids"].shape[1]
            answers, ends = tokens[:, length:], _ends(tokens[:, length:], self.model.generation_config.eos_token_id)
            mask = torch.cat([inputs["attention_mask"], ends.long()], dim=1)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            logits = self.model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits[
                :, length - 1 : -1
            ]
            scores = mean_log_probabilities(logits, answers, ends)
            said = [THOUGHTS.sub("", text) for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]
            return _translations(said, scores)

        return _in_batches(texts, self.batch_size, translated)


def mean_log_probabilities(logits: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
    """Return the mean log-probability of the tokens that count.

    Args:
        logits: `(batch, tokens, vocabulary)`, what was predicted for each token.
        tokens: `(batch, tokens)`, what was written.
        counts: boolean `(batch, tokens)`; a row of none gives 0.

    Returns:
        float32 `(batch,)`.
    """
    chosen = logits.float().log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]  # (batch, tokens)
    return chosen.where(counts, 0.0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def _ends(answers: Tensor, eos: int | list[int] | None) -> Tensor:
    """Return which tokens are of the answer: all up to its first end, the end included."""
    stops = torch.tensor([eos] if isinstance(eos, int) else (eos or []), device=answers.device)
    is_end = torch.isin(answers, stops)
    return is_end.cumsum(dim=1) - is_end.long() == 0


def _in_batches(texts: list[str], batch_size: int, translated: Any) -> list[Translation]:
    """Translate in batches of like length; blank texts stay blank."""
    order = sorted((index for index, text in enumerate(texts) if text.strip()), key=lambda index: -len(texts[index]))
    done = [Translation("", 0.0) for _ in texts]
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="translating", unit="batch", disable=True if len(starts) < 2 else None):
        indices = order[start : start + batch_size]
        for index, translation in zip(indices, translated([texts[index] for index in indices]), strict=True):
            done[index] = translation
    return done


def _translations(texts: list[str], scores: Tensor, is_cut: list[bool] | None = None) -> list[Translation]:
    parts = zip(texts, scores.tolist(), is_cut or [False] * len(texts), strict=True)
    return [Translation(" ".join(text.split()), score, cut) for text, score, cut in parts]


def _revision(model: Any) -> str:
    return getattr(model.config, "_commit_hash", None) or weights_digest(model)


APERTIUM = "apertium"


@dataclass(frozen=True)
class QueryTranslator:
    """What questions are translated by, and from.

    Args:
        translator: to English.
        source: language of the questions.
    """

    translator: Translator
    source: str

    def english(self, question: str) -> str:
        """Translate one question; an empty text where there is no translation."""
        (translation,) = self.translator.translate([question], self.source, "en")
        return translation.text.strip()


def load_query_translator(translate_from: str | None, translator: str | None) -> QueryTranslator | None:
    """Open a translator as a command names it.

    Args:
        translate_from: code of the questions' language, such as `fi`.
        translator: `apertium`, or a sequence-to-sequence model: a folder or Hub name. More settings of it are for
            `drdecr eval systems`, or for Python: both take what `translating.make_translator` makes.

    Returns:
        The first step; None where nothing is to be translated.

    Raises:
        ImportError: for a program that is not installed.
        ValueError: for one of both without the other, or a language that the translator does not know.
    """
    if translate_from is None and translator is None:
        return None
    if not translate_from:
        raise ValueError(
            "--translator: expected the language that the questions are in, got none. Name it: --translate-from fi."
        )
    if not translator:
        raise ValueError(
            "--translate-from: expected what translates, got nothing. Name it: --translator apertium, or a model."
        )
    pass  # all that reads and writes training sets: not for a search without

    entry = {"engine": APERTIUM} if translator == APERTIUM else {"engine": "seq2seq", "model": translator}
    made = make_translator(entry)
    made.translate([], translate_from, "en")  # a language that it lacks is said now, not at the first question
    return QueryTranslator(made, translate_from)


def translate_queries(system: Retriever, first: QueryTranslator | None) -> Retriever:
    """Return a system that translates what it is asked; without a first step the same."""
    return system if first is None else TranslateTestRetriever(first.translator, system, first.source)


ENGINES: dict[str, Any] = {"apertium": ApertiumTranslator, "seq2seq": Seq2SeqTranslator, "chat": ChatTranslator}


def make_translator(entry: Mapping[str, Any]) -> Translator:
    """Return an engine.

    Args:
        entry: `engine` (default seq2seq), perhaps `model`, its checkpoint, and `options`, more of its arguments.

    Raises:
        ValueError: for another key, an engine that is not there, or an option that it does not know.
    """
    check_keys(entry, ["engine", "model", "options"], "translator")
    kind = entry.get("engine", "seq2seq")
    if kind not in ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(ENGINES)}, got {kind!r}.")
    options = dict(entry.get("options") or {})
    if entry.get("model"):
        device = torch.accelerator.current_accelerator() or "cpu"
        options = {"name": entry["model"], "device": device, **options}
    try:
        with hub_errors(entry.get("model")):
            engine: Translator = ENGINES[kind](**options)
    except TypeError as error:
        raise ValueError(f"options: {error}. See `{ENGINES[kind].__name__}` for what there is.") from error
    return engine
