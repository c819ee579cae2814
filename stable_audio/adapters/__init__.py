"""Adapters: small trained updates of the weights of existing layers, as in Stable Audio 3.

`AdapterStack` adds them to a model in place, weighs, gates, merges and removes them; `read_adapter` and
`write_adapter` know their files; `with_adapters` copies a model for use, and `AdapterSpec` is how a command
line names one.
"""

from __future__ import annotations

from stable_audio.adapters.base import base_hash, check_base
from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter, read_adapter, write_adapter
from stable_audio.adapters.passport import BaseModel, Passport, TrainingClips
from stable_audio.adapters.settings import AdapterSettings
from stable_audio.adapters.spec import AdapterSpec
from stable_audio.adapters.stack import AdapterStack
from stable_audio.adapters.updates import ADAPTER_TYPES
from stable_audio.adapters.use import AdapterUse, with_adapters

__all__ = [
    "ADAPTER_TYPES",
    "Adapter",
    "AdapterError",
    "AdapterSettings",
    "AdapterSpec",
    "AdapterStack",
    "AdapterUse",
    "BaseModel",
    "Passport",
    "TrainingClips",
    "base_hash",
    "check_base",
    "read_adapter",
    "with_adapters",
    "write_adapter",
]
