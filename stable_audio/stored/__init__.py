"""Models on disk or on the Hugging Face hub: where their weights are, and the config that comes with them."""
