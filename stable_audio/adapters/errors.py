"""The error of this folder."""

from __future__ import annotations


class AdapterError(ValueError):
    """An adapter that cannot be used; the message names the file, the reason and what to do."""


class DamagedAdapterError(AdapterError):
    """An adapter whose tensors cannot be those of one."""
