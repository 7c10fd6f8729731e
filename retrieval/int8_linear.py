"""Linear layers for CPUs that multiply in int8, with a scale for each token and levelled channels."""

from typing import Any

import torch
from torch import Tensor, nn

LARGEST, ZERO = 127, 128
"""Of the rounded activations, and the byte that stands for their 0: the products take bytes without a sign."""

LARGEST_WEIGHT = 64
"""Of the rounded weights. CPUs without VNNI add pairs of products in 16 bits, where 2 x 255 x 64 fits and 2 x 255 x 127 does not.

Activations lose more by 7 bits than weights do by this.
"""

BLOCK = 1024
"""Tokens a product: memory that is new for every product of a large batch takes longer than what is done in it."""

SMALLEST_SHARE = 0.01
"""Of the mean size, that a channel is taken to have: a sample may not have shown what it can be."""


class Int8Linear(nn.Module):
    """A linear layer in int8: weights are rounded once, with a scale for each row, activations as they come.

    torch's own dynamic layer has one scale for all activations of a batch, which a few large channels and tokens take up. Here
    each channel is divided by a factor that its weights are multiplied with (SmoothQuant, Xiao et al. 2023, at the strength
    of 1/2), then each token by its largest value, so that the one scale of the product serves all of them alike.
    The products are oneDNN's. It has no gradients.

    Args:
        layer: in float32.
        channel_sizes: what is typical of each input channel, `(in_features,)`, such as its root mean square; None: channels
            stay as they are.
    """

    factors: Tensor
    bias: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, layer: nn.Linear, channel_sizes: Tensor | None = None) -> None:
        super().__init__()
        weight = layer.weight.detach()
        factors = torch.ones(layer.in_features)
        if channel_sizes is not None:
            factors = (_at_least(weight.abs().amax(0)) / _at_least(channel_sizes)).sqrt()
        self.register_buffer("factors", factors, persistent=False)
        bias = weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)
        weight = weight / factors
        scales = weight.abs().amax(1).clamp_min(1e-12) / LARGEST_WEIGHT
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zeros", torch.zeros(layer.out_features, dtype=torch.int32), persistent=False)
        rounded = (weight / scales[:, None]).round_().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)  # no buffer: it can be neither copied nor saved

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, `(..., in_features)` -> `(..., out_features)`, in float32."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        blocks = [self._of_block(block) for block in rows.split(BLOCK)]
        outputs = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return outputs.view(*inputs.shape[:-1], len(self.bias))

    def _of_block(self, rows: Tensor) -> Tensor:
        levelled = rows * self.factors
        # Not `abs().amax()`, which writes all of them again, nor `aminmax`, which is slow along the last axis.
        largest = torch.maximum(levelled.amax(-1, keepdim=True), -levelled.amin(-1, keepdim=True)).clamp_min_(1e-12)
        # `.to(torch.uint8)` takes seven times as long. Flipping the sign's bit adds 128.
        signed = levelled.mul_(LARGEST / largest).round_().to(torch.int8)
        products = self._multiply(signed.view(torch.uint8).bitwise_xor_(ZERO))
        return torch.addcmul(self.bias, products, largest, out=products)  # while a cache holds it

    def _multiply(self, rounded: Tensor) -> Tensor:
        weights = self.packed, self.scales, self.zeros
        results: Any = (1.0, 0, torch.float32, "none", [], "")  # neither rounded nor put through a function
        multiply = torch.ops.onednn.qlinear_pointwise
        products: Tensor = multiply(rounded, 1 / LARGEST, ZERO, *weights, None, *results)  # None: without a bias
        return products


def _at_least(sizes: Tensor) -> Tensor:
    return sizes.clamp_min(SMALLEST_SHARE * sizes.mean().item()).clamp_min(1e-12)
