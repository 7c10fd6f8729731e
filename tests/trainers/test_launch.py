"""Two gloo processes of N rows each, and four of N/2, end where one process of 2N rows does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TRAINING = Path(__file__).with_name("launched_training.py")
TERMS = {"relevance_kl", "aligned_tokens", "contrastive", "in_batch_contrastive"}


@pytest.mark.processes
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("processes", "names"),
    [
        (2, ("plain", "mixed", "adapter", "gathered", "cached")),
        pytest.param(4, ("plain", "adapter", "gathered", "cached"), marks=pytest.mark.slow),
    ],
)
def test_processes_end_where_one_with_all_their_rows_does(
    processes: int, names: tuple[str, ...], folder: Path, run_python: Callable[..., Any]
):
    for started in (1, processes):
        run_python(TRAINING, folder, started, processes=started, timeout=600)
    for name in names:
        one, first, second = (
            torch.load(folder / f"{name}-{part}.pt", weights_only=True)
            for part in ("1-0", f"{processes}-0", f"{processes}-1")
        )
        for key, expected in one["weights"].items():
            assert torch.equal(first["weights"][key], second["weights"][key]), (name, key)
            torch.testing.assert_close(first["weights"][key], expected, rtol=0, atol=1e-5)
        moved = {key for key, weight in one["start"].items() if not torch.equal(one["weights"][key], weight)}
        if name == "adapter":  # its teacher is the backbone, which stays as it was
            assert moved == {key for key in one["start"] if ".lora_" in key or ".modules_to_save." in key}
        projection = next(key for key in moved if "linear" in key)
        assert (one["weights"][projection] - one["start"][projection]).abs().max() > 1e-3
        # The terms' means are taken over both processes, also where each has met other terms.
        for ours, expected in zip(first["log"][:-1], one["log"][:-1], strict=True):
            assert set(ours) == set(expected)
            for term in TERMS & set(ours):
                assert ours[term] == pytest.approx(expected[term], rel=1e-4, abs=1e-6), (name, term)
