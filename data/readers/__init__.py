"""Readers of the public file formats, one module a family; each yields rows of `schema`."""
