"""Models that were pushed are whole, and open wherever their user may read them."""

import torch

from drdecr.modeling_drdecr import DrDecrModel


def test_what_was_pushed_is_what_is_loaded(hub, tiny_model):
    tiny_model.push_to_hub("alice/student")
    loaded = DrDecrModel.from_pretrained("alice/student")
    assert torch.equal(loaded.linear.weight, tiny_model.linear.weight)
    assert loaded.processor.query_marker == "[Q]"
