"""Discriminators: networks that distinguish audio from its reconstruction, for training autoencoders."""

from stable_audio.pretransforms.discriminators.base import Discriminator, GeneratorLosses
from stable_audio.pretransforms.discriminators.dac import DACDiscriminator
from stable_audio.pretransforms.discriminators.encodec import EncodecDiscriminator
from stable_audio.pretransforms.discriminators.oobleck import OobleckDiscriminator

DISCRIMINATORS: dict[str, type[Discriminator]] = {
    "encodec": EncodecDiscriminator,
    "oobleck": OobleckDiscriminator,
    "dac": DACDiscriminator,
}

__all__ = ["DISCRIMINATORS", "Discriminator", "GeneratorLosses"]
