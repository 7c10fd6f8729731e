"""Which parts of a model FSDP shares out each by itself."""

from typing import Any

from torch import nn


def layer_classes(model: Any) -> list[str]:
    """Return the names of the classes whose modules are shared out each by itself: the encoder's layers.

    They are those that the encoder names as to be kept whole, but for the one around its word embeddings: Accelerate
    shares out word embeddings by themselves (since its #4015), and fails where the module around them is shared out
    already, as BERT's and XLM-R's would be. This can go when Accelerate leaves such embeddings alone.

    Args:
        model: a transformers model. One that names no classes is shared out as a whole, its word embeddings apart.
    """
    words: nn.Module = model.get_input_embeddings()
    around = {type(module).__name__ for module in model.modules() if words in set(module.modules())}
    return sorted(set(model._no_split_modules or []) - around)
