"""Configurations -> objects: the only place where the parts of a model are put together.

What a file's parts are like shows when they are built, so that loading model files, with all their
mistakes at once, is done here as well.
"""

from stable_audio.factory.datasets import create_dataset, create_loader
from stable_audio.factory.loading import load_config
from stable_audio.factory.models import create_model_from_config

__all__ = ["create_dataset", "create_loader", "create_model_from_config", "load_config"]
