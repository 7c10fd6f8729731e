"""Readers of the public file formats, each into the one schema (`schema.py`), one file a family."""

from .collection_formats import read_beir, read_miracl, read_mr_tydi
from .hub_formats import (
    read_hub_candidates,
    read_hub_parallel,
    read_hub_questions,
    read_hub_tokens,
    read_hub_unscored,
    read_stored_tokens,
)
from .ir_datasets_format import read_ir_datasets
from .mkqa_format import read_mkqa_retrieval
from .parallel_formats import read_lines, read_mkqa, read_moses, read_tsv
from .passages import read_passages
from .prepared_formats import read_prepared, read_prepared_candidates, read_prepared_questions
from .question_formats import read_afriqa, read_clapnq, read_jsonl, read_qed, read_texts
from .squad_format import read_squad
from .text_files import Languages, locate
from .xor_format import read_xor_retrieve

__all__ = [
    "Languages",
    "locate",
    "read_afriqa",
    "read_beir",
    "read_clapnq",
    "read_hub_candidates",
    "read_hub_parallel",
    "read_hub_questions",
    "read_hub_tokens",
    "read_hub_unscored",
    "read_ir_datasets",
    "read_jsonl",
    "read_lines",
    "read_miracl",
    "read_mkqa",
    "read_mkqa_retrieval",
    "read_moses",
    "read_mr_tydi",
    "read_passages",
    "read_prepared",
    "read_prepared_candidates",
    "read_prepared_questions",
    "read_qed",
    "read_squad",
    "read_stored_tokens",
    "read_texts",
    "read_tsv",
    "read_xor_retrieve",
]
