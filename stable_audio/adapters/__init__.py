"""Adapters: small trained updates of the weights of existing layers, as in Stable Audio 3.

`AdapterStack` adds them to a model in place, weighs, gates, merges and removes them; `read_adapter` and
`write_adapter` know their files.
"""

from __future__ import annotations

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter, read_adapter, write_adapter
from stable_audio.adapters.settings import AdapterSettings
from stable_audio.adapters.stack import AdapterStack
from stable_audio.adapters.updates import ADAPTER_TYPES

__all__ = [
    "ADAPTER_TYPES",
    "Adapter",
    "AdapterError",
    "AdapterSettings",
    "AdapterStack",
    "read_adapter",
    "write_adapter",
]
