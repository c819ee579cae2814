"""Mistakes in files, as sentences that name the place, the value there and what is allowed."""
