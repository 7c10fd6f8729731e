"""What works without a network: a small encoder and the sample texts."""
