"""The sections of model and dataset files as pydantic models: their keys and the values that they take."""
