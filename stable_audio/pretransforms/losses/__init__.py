"""Losses of autoencoder training."""

from stable_audio.nn.terms import Term
from stable_audio.pretransforms.losses.hubert import HubertLoss
from stable_audio.pretransforms.losses.mel import MultiResolutionMelLoss
from stable_audio.pretransforms.losses.sdr import SISDRLoss
from stable_audio.pretransforms.losses.stft import (
    MultiResolutionSTFTLoss,
    STFTLoss,
    SumAndDifferenceSTFTLoss,
    distance_for,
)
from stable_audio.pretransforms.losses.terms import Terms

__all__ = [
    "HubertLoss",
    "MultiResolutionMelLoss",
    "MultiResolutionSTFTLoss",
    "SISDRLoss",
    "STFTLoss",
    "SumAndDifferenceSTFTLoss",
    "Term",
    "Terms",
    "distance_for",
]
