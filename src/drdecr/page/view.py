"""Answers as HTML: matched tokens and the token alignment in colour.

Colour is one hue that grows with the cosine, so that it reads in light and dark and without colour vision; every number is
there in words too. The page's text is escaped: passages and questions may hold markup.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from drdecr.evaluation.tables import NO_CELL
from drdecr.retrieval.token_matches import NO_TOKEN, TextTokens, TokenMatches, cut_text

from .answers import Alignment, Answer, KnownQuestion, Reading

LINKED = 64
"""Query tokens that show their partners when pointed at; more than a query has, and a rule of the style sheet each."""

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


@dataclass(frozen=True)
class Shown:
    """A piece of a text as it is drawn.

    Args:
        characters: of the text.
        classes: what it is linked with: `q3` a query token, `m3` what query token 3 matched.
        strength: 0 to 1, how strong its colour is; None: without colour.
        title: what is said when it is pointed at.
    """

    characters: str
    classes: str
    strength: float | None
    title: str


def show_answer(answer: Answer, known: KnownQuestion | None, same_model: bool) -> str:
    """Draw what both models found, side by side."""
    readings = [("student", answer.student)] + ([("teacher", answer.teacher)] if answer.teacher else [])
    sides = [_side(name, reading) for name, reading in readings]
    return _draw("answer", sides=sides, notes=answer.notes, known=known, same_model=same_model, names=LANGUAGE_NAMES)


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
    """Return the page's style sheet; pointing at a query token frames what it matched."""
    rules = [
        f".side:has(.q{number}:is(:hover, :focus)) .m{number}, .side:has(.m{number}:hover) .q{number}"
        for number in range(LINKED)
    ]
    own = files("drdecr.page").joinpath("page.css").read_text(encoding="utf-8")
    return own + ",\n".join(rules) + " { outline: 2px solid var(--mark); outline-offset: 1px; }\n"


def token_labels(tokens: TextTokens) -> list[str]:
    """Return a name for each token: the characters it stands for; an empty box for those that stand for none."""
    labels = [(tokens.text[slice(*span)] if span is not None else "").strip() for span in tokens.spans]
    return [label or "▫" for label in labels]


def _side(name: str, reading: Reading) -> dict[str, Any]:
    """Gather one model's column: colours are on one scale over the question and all of its passages."""
    lowest, highest = _range([value for passage in reading.found for value in passage.matches.cosines])
    labels = token_labels(reading.query)
    best = reading.found[0].matches if reading.found else TokenMatches([], [])
    passages = []
    for found in reading.found:
        names = token_labels(found.tokens)
        terms = [
            (label, names[token] if token != NO_TOKEN else NO_CELL, value, _strength(value, lowest, highest))
            for label, token, value in zip(labels, found.matches.tokens, found.matches.cosines, strict=True)
        ]
        passages.append((found, _passage_pieces(found.tokens, found.matches, labels, (lowest, highest)), terms))
    return {
        "name": name,
        "query": _query_pieces(reading.query, best, (lowest, highest)),
        "passages": passages,
        "num_tokens": len(labels),
        "lowest": lowest,
        "highest": highest,
    }


def _query_pieces(query: TextTokens, best: TokenMatches, ends: tuple[float, float]) -> list[Shown]:
    """Colour a question by what its tokens matched in the best passage; what the model did not read is said so."""
    read_to = _read_to(query)
    shown, place = [], 0
    for piece in cut_text(query.text, query.spans):
        if not piece.tokens or not best.cosines:
            shown.append(Shown(piece.characters, "" if place < read_to else "unread", None, ""))
        else:
            value = max(best.cosines[token] for token in piece.tokens)
            classes = " ".join(f"q{token}" for token in piece.tokens)
            shown.append(Shown(piece.characters, classes, _strength(value, *ends), f"cosine {value:.2f} in the best"))
        place += len(piece.characters)
    return shown


def _passage_pieces(
    tokens: TextTokens, matches: TokenMatches, labels: list[str], ends: tuple[float, float]
) -> list[Shown]:
    """Colour the tokens of a passage that a query token matched, by the highest such cosine."""
    queries_of = matches.queries_of(len(tokens.spans))
    read_to = _read_to(tokens) if tokens.is_cut else len(tokens.text)
    shown, place = [], 0
    for piece in cut_text(tokens.text, tokens.spans):
        queries = sorted({query for token in piece.tokens for query in queries_of[token]})
        place += len(piece.characters)
        if not queries:
            shown.append(Shown(piece.characters, "" if place <= read_to else "unread", None, ""))
            continue
        value = max(matches.cosines[query] for query in queries)
        title = ", ".join(f"{labels[query]} {matches.cosines[query]:.2f}" for query in queries)
        classes = " ".join(f"m{query}" for query in queries)
        shown.append(Shown(piece.characters, classes, _strength(value, *ends), title))
    return shown


def _read_to(tokens: TextTokens) -> int:
    """Return where the last token that scores ends in the text."""
    return max((span[1] for span in tokens.spans if span is not None), default=0)


def _range(values: list[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _strength(value: float, lowest: float, highest: float) -> float:
    """Return where a value lies between the ends, 0 to 1."""
    return round((value - lowest) / (highest - lowest), 3) if highest > lowest else 1.0


def _draw(macro: str, **values: Any) -> str:
    return str(getattr(_environment().get_template("page.html").module, macro)(**values))


def _environment() -> Environment:
    def source(name: str) -> str:
        return files("drdecr.page").joinpath(name).read_text(encoding="utf-8")

    return Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
