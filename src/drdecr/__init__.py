"""Cross-lingual late-interaction retrieval: distil a multilingual ColBERT student from an English teacher."""

__version__ = "0.1.0"
