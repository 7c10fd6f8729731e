"""The choice of a precision follows the clock, whatever the machine."""

import pytest
import torch

from drdecr.trainers import precision


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({torch.float32: 1.0, torch.bfloat16: 0.5}, "bfloat16"),
        ({torch.float32: 1.0, torch.bfloat16: 0.95}, "float32"),  # too little to be worth the rounding
        ({torch.float32: 1.0, torch.bfloat16: 3.0}, "float32"),
    ],
)
def test_bfloat16_is_chosen_only_where_it_is_clearly_faster(seconds, expected, monkeypatch):
    monkeypatch.setattr(precision, "_seconds", lambda one, other: seconds[one.dtype])
    assert precision.faster_precision("cpu") == expected


def test_an_emulated_bfloat16_is_measured_once_only(monkeypatch):
    calls = []

    def seconds(one, other):
        calls.append(one.dtype)
        return 1000.0 if one.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "_seconds", seconds)
    assert precision.faster_precision("cpu") == "float32"
    assert calls.count(torch.bfloat16) == 1


def test_a_device_without_bfloat16_computes_in_float32(monkeypatch):
    def refuse(one, other):
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(precision, "_seconds", refuse)
    assert precision.faster_precision("cpu") == "float32"


def test_the_measurement_itself_runs():
    assert precision.faster_precision("cpu", repeats=1) in ("float32", "bfloat16")
