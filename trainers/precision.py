"""Which precision is faster here, by trying: bfloat16 halves the time on one CPU and takes 300 times as long on another."""

from statistics import median
from time import perf_counter

import torch
from torch import Tensor

PRECISIONS = ("float32", "bfloat16", "auto")
"""What a run may compute in; `auto` is one of the other two, by measurement."""

CLEARLY_FASTER = 1.2
"""How many times as fast bfloat16 must be to be worth its rounding: less is noise, or eaten up by the casts."""

TOKENS, WIDTH = 128, 384
"""A product like those of an encoder, small enough to take less than a second where bfloat16 is emulated."""


@torch.no_grad()
def faster_precision(device: torch.device | str, repeats: int = 7) -> str:
    """Measure a product of an encoder's size in both precisions.

    Args:
        device: on which it is computed.
        repeats: timings of which the median counts (default 7).

    Returns:
        `bfloat16` where it is clearly faster, else `float32`.
    """
    states, weights = torch.ones(TOKENS, WIDTH, device=device), torch.ones(WIDTH, 4 * WIDTH, device=device)
    try:
        half = states.bfloat16(), weights.bfloat16()
        first = _seconds(*half)  # warms up, and is all that is needed where bfloat16 is emulated
    except (RuntimeError, TypeError):  # a device without bfloat16
        return "float32"
    _seconds(states, weights)
    full = median(_seconds(states, weights) for _ in range(repeats))
    if first > 100 * full:
        return "float32"
    return "bfloat16" if full > CLEARLY_FASTER * median(_seconds(*half) for _ in range(repeats)) else "float32"


def _seconds(one: Tensor, other: Tensor) -> float:
    started = perf_counter()
    for _ in range(4):
        product = one @ other
    product[0, 0].item()  # waits for the device
    return perf_counter() - started
