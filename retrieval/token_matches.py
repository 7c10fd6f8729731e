"""Why a passage was found: which of its tokens each query token matched best, and where these stand in the text.

MaxSim is a sum over query tokens of their best passage token's cosine. Here are the terms of that sum.
"""

import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from drdecr.modeling_drdecr import DrDecrModel

NO_TOKEN = -1
EMPTY_PASSAGE_COSINE = -1.0
"""What a query token scores in a passage without a scoring token, as in `maxsim`."""


@dataclass(frozen=True)
class TextTokens:
    """The tokens of a text that score.

    Args:
        text: the text.
        spans: for each token, first and last character as a slice takes them; None where it stands for nothing in the text,
            as special tokens do.
        embeddings: `(tokens, dim)`, L2-normalised.
        is_cut: whether the text goes on where its tokens end.
    """

    text: str
    spans: list[tuple[int, int] | None]
    embeddings: Tensor
    is_cut: bool

    @property
    def in_text(self) -> Tensor:
        """Boolean `(tokens,)`: true for tokens that stand for characters of the text."""
        return torch.tensor([span is not None for span in self.spans], dtype=torch.bool)


@dataclass(frozen=True)
class TokenMatches:
    """The best passage token of each query token.

    Args:
        tokens: index of the passage token, -1 where the passage has none; of equal ones the first.
        cosines: its cosine, -1 where the passage has no token. Their sum is the MaxSim score.
    """

    tokens: list[int]
    cosines: list[float]

    def queries_of(self, num_tokens: int) -> list[list[int]]:
        """Return, for each of a passage's tokens, the query tokens that matched it, which may be none or several."""
        queries: list[list[int]] = [[] for _ in range(num_tokens)]
        for query_token, token in enumerate(self.tokens):
            if token != NO_TOKEN:
                queries[token].append(query_token)
        return queries


class Piece(NamedTuple):
    """A stretch of a text: its characters, and the tokens that stand for them; none between tokens and for left-out ones."""

    characters: str
    tokens: tuple[int, ...]


def read_query(model: DrDecrModel, text: str) -> TextTokens:
    """Encode a question and keep where its tokens stand.

    Raises:
        ValueError: if the model has no processor.
    """
    embeddings = model.encode_queries([text])[0]  # says what is wrong with a model or a text
    batch = model.processor.process_queries([text])
    return _text_tokens(text, model.processor.query_spans([text])[0], batch["scoring_mask"][0], embeddings)


def read_passages(model: DrDecrModel, texts: list[str]) -> list[TextTokens]:
    """Encode passages and keep where their tokens stand; punctuation is left out as it is in scoring."""
    if not texts:
        return []
    encoded = model.encode_documents(texts)
    masks, spans = model.processor.process_documents(texts)["scoring_mask"], model.processor.document_spans(texts)
    return [_text_tokens(*row) for row in zip(texts, spans, masks, encoded, strict=True)]


def _text_tokens(text: str, spans: list[tuple[int, int] | None], scoring: Tensor, embeddings: Tensor) -> TextTokens:
    # Expansion lies behind the tokens that have a place; what pads the batch there does not score.
    places = [*spans, *[None] * (len(scoring) - len(spans))]
    read_to = max((span[1] for span in spans if span is not None), default=0)
    scoring_places = [place for place, counts in zip(places, scoring.tolist(), strict=True) if counts]
    return TextTokens(text, scoring_places, embeddings, bool(text[read_to:].strip()))


def match_tokens(query_embeddings: Tensor, document_embeddings: Tensor) -> TokenMatches:
    """Find the terms of a MaxSim score.

    Args:
        query_embeddings: `(query_tokens, dim)`, L2-normalised, those that score.
        document_embeddings: `(document_tokens, dim)`, likewise.

    Raises:
        ValueError: for embeddings that are not `(tokens, dim)` of one dim.
    """
    shapes = tuple(query_embeddings.shape), tuple(document_embeddings.shape)
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"match_tokens expects (tokens, dim) of a query and of a passage, got {shapes[0]} and {shapes[1]}. Pass one row "
            "of what `encode_queries` and of what `encode_documents` returned, from one model."
        )
    if len(document_embeddings) == 0:
        count = len(query_embeddings)
        return TokenMatches([NO_TOKEN] * count, [EMPTY_PASSAGE_COSINE] * count)
    cosines, tokens = (query_embeddings.float() @ document_embeddings.float().T).max(dim=1)  # (query_tokens,)
    return TokenMatches(tokens.tolist(), cosines.tolist())


def cut_text(text: str, spans: list[tuple[int, int] | None]) -> list[Piece]:
    """Cut a text where the tokens that stand for its characters change.

    A combining sign stays with the letter it sits on, though its token be another's, so that the pieces can be drawn apart.

    >>> cut_text("So lo?", [None, (0, 2), (3, 4), (4, 5)])
    [Piece(characters='So', tokens=(1,)), Piece(characters=' ', tokens=()), Piece(characters='l', tokens=(2,)), \
Piece(characters='o', tokens=(3,)), Piece(characters='?', tokens=())]
    """
    owners: list[list[int]] = [[] for _ in text]
    for token, span in enumerate(spans):
        for place in range(*span) if span is not None else ():
            if not text[place].isspace():  # some tokenizers count the space before a word
                owners[place].append(token)
    pieces: list[Piece] = []
    for character, tokens in zip(text, owners, strict=True):
        if pieces and (pieces[-1].tokens == tuple(tokens) or unicodedata.category(character).startswith("M")):
            before = pieces.pop()
            pieces.append(Piece(before.characters + character, tuple(sorted({*before.tokens, *tokens}))))
        else:
            pieces.append(Piece(character, tuple(tokens)))
    return pieces
