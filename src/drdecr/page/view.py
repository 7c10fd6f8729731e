"""Answers as HTML: matched tokens and the token alignment in colour.

Colour is one hue that grows with the cosine, so that it reads in light and dark and without colour vision; every number is
there in words too. The page's text is escaped: passages and questions may hold markup.
"""

from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from drdecr.evaluation.tables import NO_CELL
from drdecr.retrieval.token_matches import NO_TOKEN, TextTokens, cut_text

from .answers import Alignment, Answer, ModelAnswer, SampleQuestion

LANGUAGE_NAMES = {
    "ar": "العربية",
    "bn": "বাংলা",
    "fi": "Suomi",
    "ja": "日本語",
    "ko": "한국어",
    "ru": "Русский",
    "te": "తెలుగు",
    "en": "English",
}


class ColouredPiece(NamedTuple):
    """A piece of a text and how it is drawn: `strength` of its colour, 0 to 1 (None: no colour); `title` explains it."""

    characters: str
    strength: float | None = None
    title: str = ""
    is_read: bool = True


def show_answer(answer: Answer, sample: SampleQuestion | None, same_model: bool) -> str:
    """Draw the passages of both models side by side."""
    models = [("student", answer.student)] + ([("teacher", answer.teacher)] if answer.teacher else [])
    sides = [_side(name, model) for name, model in models]
    return _draw("answer", sides=sides, notes=answer.notes, sample=sample, same_model=same_model)


def show_alignment(alignment: Alignment | None, notes: list[str]) -> str:
    """Draw the cosines between the tokens of a question (rows) and of its English (columns), the chosen pairs framed."""
    if alignment is None:
        return _draw("notice", text=" ".join(notes) or "There is no alignment to show.")
    lowest, highest = _range([value for row in alignment.cosines for value in row])
    rows = []
    english = token_labels(alignment.teacher)
    for token, partner, values in zip(
        token_labels(alignment.student), alignment.partners, alignment.cosines, strict=True
    ):
        cells = [
            (value, _strength(value, lowest, highest), place == partner, english[place])
            for place, value in enumerate(values)
        ]
        rows.append((token, partner == NO_TOKEN, cells))
    return _draw("alignment", alignment=alignment, english=english, rows=rows, lowest=lowest, highest=highest)


def show_notice(text: str) -> str:
    """Draw a plain message."""
    return _draw("notice", text=text)


def style_sheet() -> str:
    """Return the page's style sheet."""
    return files("drdecr.page").joinpath("page.css").read_text(encoding="utf-8")


def token_labels(tokens: TextTokens) -> list[str]:
    """Return a name for each token: the characters it stands for; an empty box for those that stand for none."""
    labels = [(tokens.text[slice(*span)] if span is not None else "").strip() for span in tokens.spans]
    return [label or "▫" for label in labels]


def _side(name: str, answer: ModelAnswer) -> dict[str, Any]:
    """Gather one model's column: colours are on one scale over the question and all of its passages."""
    lowest, highest = _range([value for passage in answer.passages for value in passage.matches.cosines])
    labels = token_labels(answer.query)
    best = answer.passages[0].matches.cosines if answer.passages else []
    passages = []
    for passage in answer.passages:
        names = token_labels(passage.tokens)
        matches = list(zip(labels, passage.matches.tokens, passage.matches.cosines, strict=True))
        cosines: dict[int, list[tuple[str, float]]] = {}
        for label, token, value in matches:
            cosines.setdefault(token, []).append((label, value))
        terms = [
            (label, names[token] if token != NO_TOKEN else NO_CELL, value, _strength(value, lowest, highest))
            for label, token, value in matches
        ]
        passages.append((passage, _colour_pieces(passage.tokens, cosines, lowest, highest), terms))
    query_cosines = {token: [("best in the first passage", value)] for token, value in enumerate(best)}
    return {
        "name": name,
        "query": _colour_pieces(answer.query, query_cosines, lowest, highest),
        "passages": passages,
        "num_tokens": len(labels),
        "lowest": lowest,
        "highest": highest,
    }


def _colour_pieces(
    tokens: TextTokens, cosines: dict[int, list[tuple[str, float]]], lowest: float, highest: float
) -> list[ColouredPiece]:
    """Colour the tokens of a text that have a cosine by their highest one; what the model did not read is marked."""
    read_to = max((span[1] for span in tokens.spans if span is not None), default=0)
    pieces, place = [], 0
    for piece in cut_text(tokens.text, tokens.spans):
        values = [pair for token in piece.tokens for pair in cosines.get(token, [])]
        is_read = place < read_to or not tokens.is_cut
        place += len(piece.characters)
        if not values:
            pieces.append(ColouredPiece(piece.characters, is_read=is_read))
            continue
        title = ", ".join(f"{label} {value:.2f}" for label, value in values)
        strength = _strength(max(value for _, value in values), lowest, highest)
        pieces.append(ColouredPiece(piece.characters, strength, title))
    return pieces


def _range(values: list[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _strength(value: float, lowest: float, highest: float) -> float:
    """Return where a value lies between the ends, 0 to 1."""
    return round((value - lowest) / (highest - lowest), 3) if highest > lowest else 1.0


def _draw(macro: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("drdecr.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(getattr(environment.get_template("page.html").module, macro)(**values))
