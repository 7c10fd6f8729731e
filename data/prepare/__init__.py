"""Public sources to clean, published parquet."""
