"""Encoders that others have trained: where they are, loading them once, and what they have in common."""
