"""Pretransforms: audio <-> the space in which diffusion runs."""

from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.autoencoder_kl import KLDecoder, KLEncoder
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.bottlenecks import BOTTLENECKS
from stable_audio.pretransforms.coder import Decoder, Encoder
from stable_audio.pretransforms.conv import fold_weight_norm
from stable_audio.pretransforms.convnext import ConvNeXtDecoder, ConvNeXtEncoder
from stable_audio.pretransforms.dac import DACDecoder, DACEncoder
from stable_audio.pretransforms.dac_pretrained import DACPretrainedPretransform
from stable_audio.pretransforms.linear import LinearDecoder, LinearEncoder
from stable_audio.pretransforms.magnitudes import MagnitudeSpectrogramPretransform
from stable_audio.pretransforms.mdct import MDCTPretransform
from stable_audio.pretransforms.mel_spectrogram import MelSpectrogramPretransform
from stable_audio.pretransforms.oobleck import OobleckDecoder, OobleckEncoder
from stable_audio.pretransforms.patched import PatchedPretransform
from stable_audio.pretransforms.pqmf import PQMFPretransform
from stable_audio.pretransforms.same import SAMEDecoder, SAMEEncoder
from stable_audio.pretransforms.seanet import SEANetDecoder, SEANetEncoder
from stable_audio.pretransforms.spectrogram import SpectrogramPretransform
from stable_audio.pretransforms.taae import TAAEDecoder, TAAEEncoder
from stable_audio.pretransforms.wavelet import WaveletPretransform

ENCODERS: dict[str, type[Encoder]] = {
    "oobleck": OobleckEncoder,
    "dac": DACEncoder,
    "seanet": SEANetEncoder,
    "taae": TAAEEncoder,
    "same": SAMEEncoder,
    "taae_v2": SAMEEncoder,  # its earlier name, in files of stable-audio-tools
    "autoencoder_kl": KLEncoder,
    "convnext": ConvNeXtEncoder,
    "linear": LinearEncoder,
}

DECODERS: dict[str, type[Decoder]] = {
    "oobleck": OobleckDecoder,
    "dac": DACDecoder,
    "seanet": SEANetDecoder,
    "taae": TAAEDecoder,
    "same": SAMEDecoder,
    "taae_v2": SAMEDecoder,
    "autoencoder_kl": KLDecoder,
    "convnext": ConvNeXtDecoder,
    "linear": LinearDecoder,
}

PRETRANSFORMS: dict[str, type[Pretransform]] = {
    "autoencoder": AutoencoderPretransform,
    "patched": PatchedPretransform,
    "wavelet": WaveletPretransform,
    "pqmf": PQMFPretransform,
    "dac_pretrained": DACPretrainedPretransform,
    "spectrogram": SpectrogramPretransform,
    "mdct": MDCTPretransform,
    "magnitude_spectrogram": MagnitudeSpectrogramPretransform,
    "mel_spectrogram": MelSpectrogramPretransform,
}

__all__ = [
    "BOTTLENECKS",
    "DECODERS",
    "ENCODERS",
    "PRETRANSFORMS",
    "Autoencoder",
    "AutoencoderPretransform",
    "Decoder",
    "Encoder",
    "Pretransform",
    "fold_weight_norm",
]
