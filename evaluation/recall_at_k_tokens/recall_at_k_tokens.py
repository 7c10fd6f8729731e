"""Recall at k tokens (R@2kt, R@5kt) of XOR-Retrieve, as an `evaluate` metric."""

import datasets
import evaluate

from .xor_retrieve import score_rankings

_CITATION = """\
@inproceedings{asai-etal-2021-xor,
  title = {{XOR} {QA}: Cross-lingual Open-Retrieval Question Answering},
  author = {Asai, Akari and Kasai, Jungo and Clark, Jonathan H. and Lee, Kenton and Choi, Eunsol and Hajishirzi, Hannaneh},
  booktitle = {NAACL},
  year = {2021}
}
"""

_DESCRIPTION = """\
The share of questions of which an answer stands in the first k tokens of the retrieved passages, as XOR-Retrieve counts
it: the passages' tokens are strung together, cut after k and joined by spaces; a hit is an answer that is a
case-sensitive substring. Questions with no answer besides "yes" and "no" are left out.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: a list of passage texts, best first, for each question.
    references: a list of answers for each question.
    budgets: how many tokens count; default [2000, 5000].
    tokenize: function from text to tokens; default nltk's word_tokenize, the benchmark's.

Returns:
    R@2kt, R@5kt: shares between 0 and 1, one for each budget.
    num_questions: how many were scored.
    num_skipped: how many have no answer besides yes and no.
    tokenizer: what counted the tokens.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RecallAtKTokens(evaluate.Metric):
    """R@kt over a set of questions; for scores by question and language see `xor_retrieve.score_rankings`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("string")),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
            reference_urls=["https://nlp.cs.washington.edu/xorqa/"],
        )

    def _compute(self, predictions, references, budgets=(2000, 5000), tokenize=None):
        rankings = {str(number): list(texts) for number, texts in enumerate(predictions)}
        answers = {str(number): list(texts) for number, texts in enumerate(references)}
        result = score_rankings(rankings, answers, tuple(budgets), tokenize)
        num_questions = len(answers) - len(result.skipped)
        if not num_questions:
            raise ValueError("Needs a question with an answer besides yes and no, got none. Look at the references.")
        shares = {measure: sum(scores.values()) / num_questions for measure, scores in result.scores.items()}
        counts = {"num_questions": num_questions, "num_skipped": len(result.skipped)}
        return {**shares, **counts, "tokenizer": result.tokenizer}
