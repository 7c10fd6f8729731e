"""Training rows as they are laid out: those of like length together, and each as often as the others."""

import random
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from drdecr.data.embeddings.from_index import IndexTokens, check_index_maker
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.encoder import model_digest
from drdecr.runs.recipe import DataSettings
from drdecr.runs.training_data import _mixed


def test_a_batch_has_questions_of_like_length_and_each_row_comes_as_often():
    lengths = list(range(1, 97))
    random.Random(0).shuffle(lengths)
    rows = Dataset.from_list([{"query": "x" * length, "language": "fi"} for length in lengths])
    laid_out = _mixed({"one": rows}, DataSettings(), 24, batch_size=8, seed=1, batches_a_step=1)
    found = np.array([len(row["query"]) for row in (laid_out[place] for place in range(len(laid_out)))])
    spread = np.ptp(found.reshape(24, 8), axis=1)
    drawn = np.ptp(np.array(lengths * 2).reshape(24, 8), axis=1)  # as the rows stand
    assert spread.mean() < 0.5 * drawn.mean()
    assert set(Counter(found.tolist()).values()) == {2}
    batches = found.reshape(24, 8).mean(axis=1)
    assert not np.all(np.diff(batches) > 0)  # short ones do not all come first


def test_an_index_of_another_model_than_the_teacher_is_refused(tiny_model, tmp_path):
    for name, digest in (("own", model_digest(tiny_model)), ("unknown", None), ("other", "0123")):
        about = {"model": name, **({"model_digest": digest} if digest else {})}
        tokens = IndexTokens(StoredIndex.create(tmp_path / name, 16, metadata=about), {})
        assert check_index_maker(tokens, None) is tokens
        if name == "other":
            with pytest.raises(
                ValueError, match=r"expected an index of the recipe's teacher, got one .* made with other"
            ):
                check_index_maker(tokens, tiny_model)
        else:
            assert check_index_maker(tokens, tiny_model) is tokens
