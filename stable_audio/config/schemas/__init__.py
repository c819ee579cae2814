"""Derive schemas: constructors and registries of components -> pydantic models."""
