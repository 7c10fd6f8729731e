"""R@2kt and R@5kt of XOR-Retrieve; the code lives in `recall_at_k_tokens`, the folder that travels as an `evaluate` metric."""

from .recall_at_k_tokens.xor_retrieve import (
    DEFAULT_BUDGETS,
    FALLBACK_TOKENIZER,
    NO_SPAN_ANSWERS,
    OFFICIAL_TOKENIZER,
    AnswerRecallResult,
    answer_recall,
    score_rankings,
    span_answers,
    word_tokenizer,
)

__all__ = [
    "DEFAULT_BUDGETS",
    "FALLBACK_TOKENIZER",
    "NO_SPAN_ANSWERS",
    "OFFICIAL_TOKENIZER",
    "AnswerRecallResult",
    "answer_recall",
    "score_rankings",
    "span_answers",
    "word_tokenizer",
]
