"""Cross-lingual late-interaction retrieval: distil a multilingual ColBERT student from an English teacher.

The public names are loaded when they are first used, so that `import drdecr` costs little.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "drdecr.modeling_drdecr": (
        "DrDecrConfig",
        "DrDecrModel",
        "DrDecrProcessor",
        "DrDecrTeacher",
        "maxsim",
        "maxsim_candidates",
    ),
    "drdecr.retrieval": ("ExactIndex", "StoredIndex"),
    "drdecr.data.collators": ("DistillationCollator",),
    "drdecr.trainers": (
        "AdaptersOffTeacher",
        "ContrastiveArguments",
        "ContrastiveTrainer",
        "DistillationArguments",
        "DistillationTrainer",
        "LoraSettings",
        "RelevanceDistillationArguments",
        "RelevanceDistillationTrainer",
        "RepresentationDistillationArguments",
        "RepresentationDistillationTrainer",
        "add_adapter",
        "align_tokens",
        "load_merged",
        "push_adapter",
        "use_adapter",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'drdecr' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
