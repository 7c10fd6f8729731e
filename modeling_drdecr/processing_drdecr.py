"""Texts to tokens: markers, prefixes, lengths, and the masks that must never be mixed up.

- *attention_mask*: the encoder may look at this token. Query expansion tokens are not looked at by default.
- *scoring_mask*: this token takes part in MaxSim. Punctuation in documents does not.
- *text_mask*: this token stands for the text itself: no special token, marker, prefix or expansion. It may be aligned.
- padding: none of these. It exists only to make a rectangle, and is false in all.
"""

import string
import unicodedata
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import PROCESSOR_NAME, cached_file
from transformers.utils.hub import is_offline_mode

from .hub_drdecr import hub_errors, push_saved

PRIMEQA_MARKERS = (9748, 9749)
"""Ordinary XLM-R vocabulary ids that PrimeQA's DrDecr checkpoints use as query and document marker."""


class DrDecrProcessor(ProcessorMixin):
    """Turns questions and passages into the tensors of `DrDecrModel`.

    Input is `<s> MARKER prefix text </s>`; lengths count everything. All settings are saved in `processor_config.json`.

    Args:
        tokenizer: a fast tokenizer.
        query_length: tokens a query may take, special tokens included (default 32, the paper's).
        document_length: tokens a document may take, special tokens included (default 180, the paper's).
        query_marker: token, or its id, put after the first special token of a query; default none. It must be in the
            vocabulary.
        document_marker: the same for documents.
        query_prefix: text put before a query (`"query: "` for the E5 family); default none.
        document_prefix: text put before a document (`"passage: "` for the E5 family); default none.
        score_special_tokens: whether `<s>`, `</s>` and markers take part in MaxSim (default True, the paper's).
        score_prefix: whether the tokens of the prefix take part in MaxSim (default False).
        skip_punctuation: leave document tokens out of MaxSim that are punctuation to a reader, by the characters they
            stand for (default True, the paper's).
        query_expansion: `"none"` (default) or `"mask"`: fill queries with mask tokens up to `query_length`, which take
            part in MaxSim (Khattab and Zaharia 2020, section 3.2).
        attend_to_expansion: whether other tokens see the expansion tokens (default False, as in ColBERT).
        legacy_primeqa: reproduce the masks of the authors' code for their checkpoints: padding fills queries and takes
            part in MaxSim, `<s>` does not, the punctuation list holds first sub-tokens, markers are ids 9748 and 9749.

    Raises:
        ValueError: for a length without room for text, an unknown marker or expansion, or expansion without a mask
            token.
    """

    # No keyword-only marker here: transformers reads the accepted arguments from positions.
    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        query_length: int = 32,
        document_length: int = 180,
        query_marker: str | int | None = None,
        document_marker: str | int | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        score_special_tokens: bool = True,
        score_prefix: bool = False,
        skip_punctuation: bool = True,
        query_expansion: str = "none",
        attend_to_expansion: bool = False,
        legacy_primeqa: bool = False,
    ) -> None:
        super().__init__(tokenizer)
        if legacy_primeqa:
            query_marker = PRIMEQA_MARKERS[0] if query_marker is None else query_marker
            document_marker = PRIMEQA_MARKERS[1] if document_marker is None else document_marker
        self.query_length, self.document_length = query_length, document_length
        self.query_marker, self.document_marker = query_marker, document_marker
        self.query_prefix, self.document_prefix = query_prefix, document_prefix
        self.score_special_tokens, self.score_prefix = score_special_tokens, score_prefix
        self.skip_punctuation = skip_punctuation
        self.query_expansion, self.attend_to_expansion = query_expansion, attend_to_expansion
        self.legacy_primeqa = legacy_primeqa
        self._before, self._after = _special_ids(tokenizer)
        self._punctuation: dict[int, bool | None] = {}
        markers = {self._marker_id(marker) for marker in (query_marker, document_marker) if marker is not None}
        unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.pad_token_id
        self._unmarked = dict.fromkeys(markers & set(tokenizer.added_tokens_decoder), unknown)
        self._validate()

    def process_queries(self, texts: list[str]) -> BatchFeature:
        """Tokenise questions.

        Args:
            texts: a non-empty list of strings, in any language.

        Returns:
            `input_ids` int64, and `attention_mask`, `scoring_mask`, `text_mask` bool, each `(batch, longest)`, or
            `(batch, query_length)` with expansion.

        Raises:
            ValueError: for an empty list or something that is not a string.
        """
        rows, roles, _ = self._tokenise(texts, self.query_length, self.query_marker, self.query_prefix)
        expanded = self.query_expansion == "mask" or self.legacy_primeqa
        filler = self.tokenizer.mask_token_id if self.query_expansion == "mask" else self.tokenizer.pad_token_id
        length = self.query_length if expanded else None
        input_ids, roles_matrix = _rectangle(rows, filler, length), _rectangle(roles, PADDING, length)
        is_real = roles_matrix != PADDING
        if self.legacy_primeqa:
            return _feature(input_ids, is_real, input_ids != 0, roles_matrix)
        scoring = self._scores(roles_matrix)
        if not expanded:
            return _feature(input_ids, is_real, scoring, roles_matrix)
        attention = torch.ones_like(is_real) if self.attend_to_expansion else is_real
        return _feature(input_ids, attention, scoring | ~is_real, roles_matrix)

    def process_documents(self, texts: list[str]) -> BatchFeature:
        """Tokenise passages; arguments, result and errors as in `process_queries`, up to `document_length` tokens."""
        rows, roles, spans = self._tokenise(texts, self.document_length, self.document_marker, self.document_prefix)
        input_ids, roles_matrix = _rectangle(rows, self.tokenizer.pad_token_id), _rectangle(roles, PADDING)
        is_real = roles_matrix != PADDING
        if self.legacy_primeqa:
            scoring = (input_ids != 0) & ~self._is_listed_by_primeqa(input_ids)
            return _feature(input_ids, is_real, scoring, roles_matrix)
        scoring = self._scores(roles_matrix)
        if self.skip_punctuation:
            wholes = [self.document_prefix + text for text in texts]
            covered = [[whole[slice(*span)] for span in row] for whole, row in zip(wholes, spans, strict=True)]
            signs = [list(map(self._is_punctuation, *tokens)) for tokens in zip(rows, covered, strict=True)]
            scoring &= ~(_rectangle(signs, False).bool() & (roles_matrix != SPECIAL))
        return _feature(input_ids, is_real, scoring, roles_matrix)

    def query_spans(self, texts: list[str]) -> list[list[tuple[int, int] | None]]:
        """Tell where in its text each token of `process_queries` stands, to show what a model read.

        Args:
            texts: a non-empty list of strings.

        Returns:
            For each text and each of its tokens, first and last character as a slice takes them. None for special tokens,
            marker and prefix, which stand for nothing in it; padding and expansion behind them have no entry.

        Raises:
            ValueError: as in `process_queries`.
        """
        return self._spans(texts, self.query_length, self.query_marker, self.query_prefix)

    def document_spans(self, texts: list[str]) -> list[list[tuple[int, int] | None]]:
        """Tell where in its text each token of `process_documents` stands; see `query_spans`."""
        return self._spans(texts, self.document_length, self.document_marker, self.document_prefix)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as any processor does; what the Hub refuses is told in one line (`HubError`)."""
        with hub_errors(str(pretrained_model_name_or_path), kwargs.get("token")):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def load_if_there(
        cls, name_or_path: Any, has_settings: bool = False, max_length: int | None = None, **kwargs: Any
    ) -> "DrDecrProcessor | None":
        """Load the processor of a checkpoint; from a bare encoder, its tokenizer with default settings; else None.

        Args:
            name_or_path: folder or Hub name.
            has_settings: whether a tokenizer alone is a damaged checkpoint (default: a bare encoder).
            max_length: of a bare encoder's queries and documents, in tokens (default: those of a new processor).
            **kwargs: where the files are, as of `from_pretrained`.

        Raises:
            ValueError: for a tokenizer without the settings that belong to it.
        """
        if _is_there(name_or_path, PROCESSOR_NAME, **kwargs):
            return cls.from_pretrained(name_or_path, **kwargs)
        if _is_there(name_or_path, "tokenizer_config.json", **kwargs):
            if has_settings:
                raise ValueError(
                    f"{name_or_path}: expected {PROCESSOR_NAME} beside the tokenizer: markers, prefixes and lengths stand in it. "
                    "Get the checkpoint again."
                )
            lengths: dict[str, Any] = {"query_length": 32, "document_length": 180}
            shortened = {name: min(length, max_length or length) for name, length in lengths.items()}
            return cls(AutoTokenizer.from_pretrained(name_or_path, **kwargs), **shortened)
        return None

    @property
    def special_ids(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text."""
        return self._before, self._after

    def is_punctuation_token(self, token_id: int) -> bool | None:
        """Tell whether a token is punctuation whatever the text; None where that depends on the text."""
        self._is_punctuation(token_id, "")
        return self._punctuation[token_id]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as they are saved.

        They name the tokenizer as the class for those who may not run our code (sentence-transformers without
        `trust_remote_code`): AutoProcessor refuses to open a folder whose only class is in it.
        """
        return {**super().to_dict(), "processor_class": "AutoTokenizer"}

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:  # type: ignore[override]
        """Push the processor's files, in one commit and without a card, which is the model's business.

        Arguments are those of transformers (`hub_drdecr.push_saved`).
        """
        return push_saved(self, repo_id, **{"commit_message": "Upload processor", **kwargs})

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the model takes."""
        return ["input_ids", "attention_mask", "scoring_mask", "text_mask"]

    def _spans(
        self, texts: list[str], length: int, marker: str | int | None, prefix: str
    ) -> list[list[tuple[int, int] | None]]:
        _, roles, spans = self._tokenise(texts, length, marker, prefix)
        skipped = len(prefix)
        return [
            [
                (max(start - skipped, 0), end - skipped) if role == TEXT else None
                for role, (start, end) in zip(*row, strict=True)
            ]
            for row in zip(roles, spans, strict=True)
        ]

    def _tokenise(
        self, texts: list[str], length: int, marker: str | int | None, prefix: str
    ) -> tuple[list[list[int]], list[list[int]], list[list[tuple[int, int]]]]:
        """Return token ids and, for each, its role and the characters of prefix and text that it covers."""
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"Expected a non-empty list of strings to tokenise, got {describe_texts(texts)}. Wrap a single text: "
                "[text]."
            )
        head = [*self._before, *([] if marker is None else [self._marker_id(marker)])]
        room = length - len(head) - len(self._after)
        # Prefix and text are tokenised as one string, as the encoder saw them in its training. Half of a surrogate pair, which
        # no tokenizer reads, becomes `?`.
        whole_texts = [(prefix + text).encode("utf-8", "replace").decode("utf-8") for text in texts]
        encoded = self.tokenizer(
            whole_texts,
            add_special_tokens=False,
            split_special_tokens=True,  # `</s>` in a text is text, such as a tag of HTML
            # Cut below: a fast tokenizer keeps `truncation=True` for good, and would save it into `tokenizer.json`.
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        rows, roles, places = [], [], []
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            spans = offsets[:room]
            body = [PREFIX if prefix and end <= len(prefix) else TEXT for _, end in spans]
            inner = [self._unmarked.get(token, token) for token in ids[:room]]
            if not (head or inner or self._after):  # a blank text under a tokenizer that adds nothing
                inner, body, spans = [self.tokenizer.pad_token_id], [SPECIAL], [(0, 0)]
            rows.append([*head, *inner, *self._after])
            roles.append([*[SPECIAL] * len(head), *body, *[SPECIAL] * len(self._after)])
            places.append([*[(0, 0)] * len(head), *spans, *[(0, 0)] * len(self._after)])
        return rows, roles, places

    def _scores(self, roles: Tensor) -> Tensor:
        scoring = roles == TEXT
        if self.score_special_tokens:
            scoring |= roles == SPECIAL
        return scoring | (roles == PREFIX) if self.score_prefix else scoring

    def _is_punctuation(self, token_id: int, characters: str) -> bool:
        """Tell by the characters a token stands for, whichever way its tokenizer writes them down."""
        if token_id not in self._punctuation:
            piece = self.tokenizer.decode([token_id])
            # Some bytes of a character are no text (byte-level BPE, byte fallback), and the unknown token may be any: see
            # which characters it stands for.
            is_open = "\ufffd" in piece or token_id == self.tokenizer.unk_token_id
            self._punctuation[token_id] = None if is_open else is_punctuation(piece)
        known = self._punctuation[token_id]
        return is_punctuation(characters) if known is None else known

    def _is_listed_by_primeqa(self, input_ids: Tensor) -> Tensor:
        first = [self.tokenizer(sign, add_special_tokens=False)["input_ids"][0] for sign in string.punctuation]
        return torch.isin(input_ids, torch.tensor(first))

    def _marker_id(self, marker: str | int) -> int:
        if isinstance(marker, int):
            marker_id = marker if 0 <= marker < len(self.tokenizer) else None
        else:  # not get_vocab(), which copies the whole vocabulary, on every batch
            marker_id = self.tokenizer.backend_tokenizer.token_to_id(marker)
        if marker_id is None:
            raise ValueError(
                f"Marker {marker!r} is not in the tokenizer's vocabulary. Choose one that is (BERT has '[unused0]'), "
                "or add it with `tokenizer.add_tokens` and resize the model's embeddings."
            )
        return marker_id

    def _validate(self) -> None:
        if not getattr(self.tokenizer, "is_fast", True):
            raise ValueError("DrDecrProcessor expects a fast tokenizer, got a slow one. Load it with AutoTokenizer.")
        if self.tokenizer.pad_token_id is None:
            raise ValueError("DrDecrProcessor expects a tokenizer with a padding token. Set `tokenizer.pad_token`.")
        if self.query_expansion not in ("none", "mask"):
            raise ValueError(
                f"query_expansion: expected 'none' or 'mask', got {self.query_expansion!r}. 'none' is the default."
            )
        if self.query_expansion == "mask" and self.tokenizer.mask_token_id is None:
            raise ValueError("query_expansion='mask' needs a tokenizer with a mask token. Use query_expansion='none'.")
        sides = (
            ("query", self.query_length, self.query_marker, self.query_prefix),
            ("document", self.document_length, self.document_marker, self.document_prefix),
        )
        for name, length, marker, prefix in sides:
            taken = len(self._before) + len(self._after)
            taken += 0 if marker is None else len([self._marker_id(marker)])
            taken += len(self.tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0
            if length <= taken:
                raise ValueError(
                    f"{name}_length: expected more than the {taken} tokens of marker, prefix and special tokens, "
                    f"got {length}. The paper's lengths are 32 and 180."
                )


PADDING, SPECIAL, PREFIX, TEXT = range(4)
"""Roles of a token: which of them count is decided by the processor's settings."""


def _is_there(name_or_path: Any, file: str, **kwargs: Any) -> bool:
    """Tell whether a checkpoint has a file. A Hub that cannot be asked is an error, unless it is not to be asked."""
    try:
        return cached_file(name_or_path, file, **kwargs) is not None
    except OSError as error:
        must_not_ask = is_offline_mode() or kwargs.get("local_files_only")
        if error.__cause__ is not None and not must_not_ask:  # a file that is not there has no further cause
            raise
        return False


def is_punctuation(text: str) -> bool:
    """Tell whether a token's text holds nothing that a reader would search for: signs, or white space alone.

    >>> [is_punctuation(text) for text in ("?!", "。", "", "a.", "7")]
    [True, True, True, False, False]
    """
    return all(
        character in string.punctuation or character.isspace() or unicodedata.category(character).startswith("P")
        for character in text
    )


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a text."""
    body = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(body) + 1):
        if whole[start : start + len(body)] == body:
            return whole[:start], whole[start + len(body) :]
    raise ValueError(
        f"{type(tokenizer).__name__} changes a text when it adds special tokens, so they cannot be told apart. Use a "
        "tokenizer that puts them around the text."
    )


def _feature(input_ids: Tensor, attention_mask: Tensor, scoring_mask: Tensor, roles: Tensor) -> BatchFeature:
    masks = {"attention_mask": attention_mask, "scoring_mask": scoring_mask, "text_mask": roles == TEXT}
    return BatchFeature({"input_ids": input_ids, **masks})


def _rectangle(rows: list[Any], filler: int, length: int | None = None) -> Tensor:
    longest = max(len(row) for row in rows) if length is None else length
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows], dtype=torch.long)


def describe_texts(texts: Any) -> str:
    """Say in words what came where a list of strings was expected."""
    if isinstance(texts, list | tuple):
        odd = next((text for text in texts if not isinstance(text, str)), None)
        return "an empty list" if not texts else f"a list with {odd!r}"
    return type(texts).__name__


# Here and not in `__init__.py`, which does not travel: `AutoModel` with remote code would register the model, but not
# the processor that comes with it, and a copy saved there would lose its way to this class.
DrDecrProcessor.register_for_auto_class("AutoProcessor")
