"""R@2kt and R@5kt: does an answer stand in the first 2,000 or 5,000 tokens of the ranked passages?

The protocol of XOR-Retrieve (Asai et al. 2021), after the benchmark's own `evals/eval_xor_retrieve.py`. Scores are 0 or
1 a question; `results.summarize` makes the percentage per language (as a share, so times 100 for the papers' figures)
and the macro average over languages.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

logger = logging.getLogger(__name__)

Tokenize = Callable[[str], list[str]]

DEFAULT_BUDGETS = (2000, 5000)
"""Tokens of R@2kt and R@5kt."""

NO_SPAN_ANSWERS = ("yes", "no")
"""Answers that no passage can contain as a span; the benchmark drops exactly these spellings."""

OFFICIAL_TOKENIZER = "nltk.word_tokenize"
FALLBACK_TOKENIZER = "nltk.word_tokenize(preserve_line=True)"


@dataclass(frozen=True)
class AnswerRecallResult:
    """Scores of one ranking of the benchmark's questions, with what one must know to read them.

    Attributes:
        scores: `measure -> question_id -> 0.0 or 1.0`, measures named `R@2kt`, `R@5kt`.
        skipped: questions left out because all their answers are yes or no.
        short_lists: `measure -> number of questions` whose passages ended before the budget and missed. A deeper
            ranking might have hit, so the score is a lower bound.
        tokenizer: `OFFICIAL_TOKENIZER`, `FALLBACK_TOKENIZER`, or the name of the one that was given.
    """

    scores: dict[str, dict[str, float]]
    skipped: tuple[str, ...]
    short_lists: dict[str, int]
    tokenizer: str

    def notes(self) -> dict[str, Any]:
        """Give the facts that belong into a result's metadata, ready for JSON."""
        return {
            "tokenizer": self.tokenizer,
            "skipped_questions": len(self.skipped),
            "missed_with_short_list": dict(self.short_lists),
        }


def answer_recall(
    ranked_texts: Iterable[str], answers: Sequence[str], budget_tokens: int = 5000, tokenize: Tokenize | None = None
) -> float:
    """Look for an answer in the first tokens of one question's passages.

    The passages' tokens are strung together, cut after `budget_tokens` and joined by single spaces; a hit is an answer
    that is a raw, case-sensitive substring of that. The answers are not tokenised: "50%" is not found, because the text
    reads "50 %"; "art" is found in "start". Yes and no are not looked for.

    Args:
        ranked_texts: passage texts, best first; read only as far as the budget reaches.
        answers: the question's answers as the benchmark gives them, at least one besides yes and no.
        budget_tokens: how many tokens count; default 5,000 (R@5kt).
        tokenize: text to tokens; default what `word_tokenizer` finds.

    Returns:
        1.0 for a hit, else 0.0. No passages give 0.0.

    Raises:
        ValueError: when no answer is left to look for, one is the empty string, or the budget is not positive.
    """
    _check_budgets((budget_tokens,))
    wanted = span_answers(answers)
    if not wanted:
        raise ValueError(f"Needs an answer besides yes and no, got {list(answers)}. Skip such questions.")
    tokens = _first_tokens(ranked_texts, budget_tokens, tokenize or word_tokenizer()[0])
    return _hit(tokens, wanted)


def score_rankings(
    rankings: Mapping[str, Iterable[str]],
    answers: Mapping[str, Sequence[str]],
    budgets: Sequence[int] = DEFAULT_BUDGETS,
    tokenize: Tokenize | None = None,
) -> AnswerRecallResult:
    """Score all questions of the benchmark.

    Args:
        rankings: `question_id -> passage texts, best first`. A question with answers but without a ranking counts as a
            miss; the official script would leave it out of the count and so flatter a system that crashed half-way.
        answers: `question_id -> answers`.
        budgets: token budgets; default 2,000 and 5,000. Each passage is tokenised once, for the largest.
        tokenize: text to tokens; default what `word_tokenizer` finds.

    Returns:
        Scores and the facts to read them by. Questions with nothing but yes and no are absent from the scores.

    Raises:
        ValueError: for a ranking of an unknown question, and as in `answer_recall`.
    """
    _check_budgets(budgets)
    unknown = [question_id for question_id in rankings if question_id not in answers]
    if unknown:
        raise ValueError(
            f"{len(unknown)} rankings have no answers, the first {unknown[0]!r}. Use one version of the data."
        )
    tokenizer = getattr(tokenize, "__name__", repr(tokenize))
    if tokenize is None:
        tokenize, tokenizer = word_tokenizer()
    scores: dict[str, dict[str, float]] = {_measure(budget): {} for budget in budgets}
    short_lists = dict.fromkeys(scores, 0)
    skipped = []
    for question_id, its_answers in answers.items():
        wanted = span_answers(its_answers)
        if not wanted:
            skipped.append(question_id)
            continue
        tokens = _first_tokens(rankings.get(question_id, ()), max(budgets), tokenize)
        for budget in budgets:
            hit = _hit(tokens[:budget], wanted)
            scores[_measure(budget)][question_id] = hit
            short_lists[_measure(budget)] += int(not hit and len(tokens) < budget)
    return AnswerRecallResult(scores, tuple(skipped), short_lists, tokenizer)


def span_answers(answers: Sequence[str]) -> list[str]:
    """Drop the answers "yes" and "no", in exactly these spellings, as the benchmark does.

    Args:
        answers: a question's answers.

    Returns:
        The others, in their order; an empty list means that the question is not scored.

    Raises:
        ValueError: for a blank answer, which is a substring of every text, or for one string in place of a list.
    """
    if isinstance(answers, str):
        raise ValueError(f"Expected a list of answers, got the string {answers!r}. Put it in a list.")
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError(f"An empty answer is found in every text, got {list(answers)}. Take it out of the answers.")
    return [answer for answer in answers if answer not in NO_SPAN_ANSWERS]


@functools.cache
def word_tokenizer() -> tuple[Tokenize, str]:
    """Find the tokenizer of the benchmark, or the nearest that works offline.

    The benchmark uses `nltk.word_tokenize`, which splits sentences with the punkt model (a download) before it splits
    words. Without punkt the word rules run over the whole passage (`preserve_line=True`). What differs: the final
    period of every sentence but the passage's last stays attached to its word. So a passage counts some tokens less
    (one a sentence), the budget reaches a little further, and an answer that runs over a sentence end can be found
    where the official script writes " ." and misses. Compare with published figures only under `OFFICIAL_TOKENIZER`.

    Returns:
        The function from text to tokens, and its name for the result. Looked up, and warned about, once a process.
    """
    from nltk.tokenize import word_tokenize

    try:
        word_tokenize("Is punkt there? See.")
    except LookupError:
        logger.warning(
            "nltk's punkt_tab data is not installed: R@kt is counted with %s, not comparable to the last digit with "
            "published figures. Cure: python -m nltk.downloader punkt_tab",
            FALLBACK_TOKENIZER,
        )
        return functools.partial(word_tokenize, preserve_line=True), FALLBACK_TOKENIZER
    return word_tokenize, OFFICIAL_TOKENIZER


def _measure(budget: int) -> str:
    return f"R@{budget / 1000:.15g}kt"


def _check_budgets(budgets: Sequence[int]) -> None:
    if not budgets or not all(isinstance(budget, Integral) and budget > 0 for budget in budgets):
        raise ValueError(
            f"Token budgets must be positive whole numbers, got {list(budgets)}. The benchmark uses 2000 and 5000."
        )


def _first_tokens(ranked_texts: Iterable[str], budget: int, tokenize: Tokenize) -> list[str]:
    tokens: list[str] = []
    for text in ranked_texts:
        if not isinstance(text, str):
            raise ValueError(f"Expected passages that are texts, got {text!r}. Pass the texts, best first.")
        tokens += tokenize(text)
        if len(tokens) >= budget:
            break
    return tokens[:budget]


def _hit(tokens: Sequence[str], answers: Sequence[str]) -> float:
    text = " ".join(tokens)
    return float(any(answer in text for answer in answers))
