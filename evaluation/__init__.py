"""Metrics and benchmark protocols: numbers per query, their uncertainty, and how people look at them.

`metrics` and `recall_at_k_tokens` score queries, `significance` says how sure a mean or a difference is, `results` gathers
both per language and keeps them on disk, `report` prints and draws them.
"""
