"""Check a model file and a dataset file before training."""
