"""Training rows as they are laid out: those of like length together, and each as often as the others."""

import random
from collections import Counter

import numpy as np
from datasets import Dataset

from drdecr.recipe import DataSettings
from drdecr.sets import _mixed


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
