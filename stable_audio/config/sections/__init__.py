"""The sections of model and dataset files, as pydantic models: which keys there are, and what they hold."""
