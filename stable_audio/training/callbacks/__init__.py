"""Callbacks of a run, which act around its steps."""
