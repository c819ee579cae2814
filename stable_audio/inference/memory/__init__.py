"""How much memory a model takes, found by running it on shapes: no weights, no arithmetic."""
