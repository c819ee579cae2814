"""Configurations -> objects: the only place where the parts of a model are put together.

Some rules of a model file compare its parts, which have to be built for that, so model files are loaded here.
"""

from stable_audio.factory.datasets import create_dataset, create_loader
from stable_audio.factory.loading import load_config
from stable_audio.factory.models import create_model_from_config

__all__ = ["create_dataset", "create_loader", "create_model_from_config", "load_config"]
