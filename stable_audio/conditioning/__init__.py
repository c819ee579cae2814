"""Metadata -> tensors -> slots of the backbone.

To add a conditioner: one file with a subclass of `Conditioner`, one line here, one entry in tests/tiny.py.
"""

from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.clap_audio import ClapAudioConditioner
from stable_audio.conditioning.clap_text import ClapTextConditioner
from stable_audio.conditioning.clip_text import ClipTextConditioner
from stable_audio.conditioning.lut import LookUpConditioner
from stable_audio.conditioning.multi import MultiConditioner
from stable_audio.conditioning.phoneme import PhonemeConditioner
from stable_audio.conditioning.scalars import IntConditioner, ListConditioner, NumberConditioner
from stable_audio.conditioning.sounds import PretransformConditioner, SourceMixConditioner
from stable_audio.conditioning.t5 import T5Conditioner
from stable_audio.conditioning.t5gemma import T5GemmaConditioner
from stable_audio.conditioning.text_encoder import TextEncoderConditioner
from stable_audio.conditioning.vector import VectorConditioner
from stable_audio.conditioning.wiring import SlotWiring
from stable_audio.conditioning.words import WordsConditioner

CONDITIONERS: dict[str, type[Conditioner]] = {
    "int": IntConditioner,
    "number": NumberConditioner,
    "list": ListConditioner,
    "vector": VectorConditioner,
    "words": WordsConditioner,
    "clip_text": ClipTextConditioner,
    "t5": T5Conditioner,
    "t5gemma": T5GemmaConditioner,
    "text_encoder": TextEncoderConditioner,
    "clap_text": ClapTextConditioner,
    "clap_audio": ClapAudioConditioner,
    "lut": LookUpConditioner,
    "phoneme": PhonemeConditioner,
    "pretransform": PretransformConditioner,
    "source_mix": SourceMixConditioner,
}

__all__ = ["CONDITIONERS", "Conditioner", "MultiConditioner", "SlotWiring"]
