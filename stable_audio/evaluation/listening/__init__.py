"""Listening to clips of the synthetic collection: measurements, rendered references, and verdicts."""
