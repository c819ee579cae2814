"""`training` sections of autoencoders."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge
from pydantic import Field, create_model

from stable_audio.config.schemas.component import Component, component
from stable_audio.config.schemas.derived import Derived
from stable_audio.config.schemas.leaf import Leaf, Section, keys_of, leaf_model
from stable_audio.config.sections.training import DiffusionOptimizers, EmaRule, OptimizerSection, RunKeys
from stable_audio.nn.checkpointing import Recomputation
from stable_audio.pretransforms.discriminators import DISCRIMINATORS
from stable_audio.pretransforms.encoder_options import EncoderOptions
from stable_audio.pretransforms.losses import (
    HubertLoss,
    MultiResolutionMelLoss,
    SumAndDifferenceSTFTLoss,
)
from stable_audio.pretransforms.metrics import METRICS, PESQ
from stable_audio.ranges import Positive

Weight = Annotated[float, Ge(0)]


class AutoencoderOptimizers(Section):
    """`optimizer_configs` of autoencoders."""

    autoencoder: OptimizerSection
    discriminator: OptimizerSection | None = Field(default=None, description="default: the autoencoder's")


class LossSection(Section):
    """Keys of every loss section. `type` is not needed, since the name of the section implies it."""

    type: str | None = None
    decay: float = Field(
        default=1.0, gt=0, le=1, description="factor that the weight shrinks by at every use"
    )


class DiscriminatorWeights(Section):
    """Weights of the adversarial terms."""

    adversarial: Weight = 0.1
    feature_matching: Weight = 5.0


class DiscriminatorSection(Component):
    """Adversarial training."""

    weights: DiscriminatorWeights = DiscriminatorWeights()


AnyDiscriminator: TypeAlias = Derived[
    DiscriminatorSection,
    component(DISCRIMINATORS, base=DiscriminatorSection, title="discriminator"),
]


class SpectralWeights(Section):
    """Weight of the multi-resolution STFT loss."""

    mrstft: Weight = 1.0


STFTOptions: TypeAlias = Derived[Leaf, leaf_model(SumAndDifferenceSTFTLoss)]
MelOptions: TypeAlias = Derived[Leaf, leaf_model(MultiResolutionMelLoss, provided=("sample_rate",))]
HubertOptions: TypeAlias = Derived[Leaf, leaf_model(HubertLoss, hidden=("sample_rate",))]


class SpectralSection(LossSection):
    """Multi-resolution STFT loss."""

    config: STFTOptions = STFTOptions()
    weights: SpectralWeights = SpectralWeights()


class PointwiseWeights(Section):
    """Weights of the value-by-value terms."""

    l1: Weight = 0.0
    l2: Weight = 0.0


class PointwiseSection(LossSection):
    """Value-by-value loss."""

    config: dict[str, Any] = Field(default={}, description="not needed")
    weights: PointwiseWeights = PointwiseWeights()


class TimeSection(PointwiseSection):
    """Sample-by-sample loss."""


class PretransformLossSection(PointwiseSection):
    """Loss between values of the autoencoder's own pretransform, such as a spectrogram."""


class BottleneckLossSection(LossSection):
    """Terms of the bottleneck, by the name it gives them: kl, mmd, quantizer_loss, ..."""

    weights: dict[str, Weight] = Field(default={})


class MelWeights(Section):
    """Weight of the multi-resolution mel loss."""

    mrmel: Weight = 1.0


class MelSection(LossSection):
    """Multi-resolution mel loss."""

    config: MelOptions = MelOptions()
    weights: MelWeights = MelWeights()


class HubertWeights(Section):
    """Weight of the distance in a speech network."""

    hubert: Weight = 1.0


class HubertSection(LossSection):
    """Distance in the hidden layers of a pretrained speech network."""

    config: HubertOptions = HubertOptions()
    weights: HubertWeights = HubertWeights()


class AutoencoderLosses(Section):
    """`loss_configs` of autoencoders; a section that is absent adds nothing."""

    discriminator: AnyDiscriminator | None = None
    spectral: SpectralSection | None = None
    time: TimeSection | None = None
    pretransform: PretransformLossSection | None = None
    bottleneck: BottleneckLossSection | None = None
    mrmel: MelSection | None = None
    hubert: HubertSection | None = None


def _metrics_model() -> type[Section]:
    """One optional object per metric, with the keywords of its constructor."""
    fields: dict[str, Any] = {}
    for name, metric in METRICS.items():
        # PESQ converts audio from its true sample rate, so a file has no say in it.
        hidden = ("sample_rate",) if metric is PESQ else ()
        options: Any = leaf_model(metric, provided=("sample_rate",), hidden=hidden)
        description = " ".join((inspect.getdoc(metric) or "").split("\n\n")[0].split())
        fields[name] = (options | None, Field(default=None, description=description))
    return create_model("ValidationMetrics", __base__=Section, __module__=__name__, **fields)


ValidationMetrics: TypeAlias = Derived[Section, _metrics_model()]


class AutoencoderDemoSection(Section):
    """Original beside reconstruction, during training."""

    demo_every: Positive = Field(default=2000, description="steps between demos")
    max_demos: Positive = Field(default=8, description="clips of a demo")


class DiffusionAutoencoderDemoSection(AutoencoderDemoSection):
    """Original beside reconstruction, during training."""

    demo_steps: Positive = Field(default=50, description="sampling steps")


class DiffusionAutoencoderTrainingSection(RunKeys):
    """`training` of `diffusion_autoencoder`."""

    learning_rate: float | None = Field(default=None, gt=0, description="learning rate of Adam")
    optimizer_configs: DiffusionOptimizers | None = None
    use_ema: bool = Field(default=True, description="average the weights for demos and inference files")
    ema: EmaRule = EmaRule()
    use_reconstruction_loss: bool = Field(default=False, description="add an STFT loss of the denoised audio")
    gradient_checkpointing: Recomputation = Field(
        default=False,
        description="recompute activations: in every block, in the first of every n, or elementwise ones",
    )
    pre_encoded: Literal[False] = False
    demo: DiffusionAutoencoderDemoSection | None = None


EncoderKeys: TypeAlias = Derived[Section, keys_of(EncoderOptions)]


class AutoencoderTrainingSection(RunKeys, EncoderKeys):
    """`training` of `autoencoder`."""

    learning_rate: float | None = Field(
        default=None, gt=0, description="learning rate of AdamW, for both networks"
    )
    optimizer_configs: AutoencoderOptimizers | None = None
    use_ema: bool = Field(default=False, description="average the weights")
    ema: EmaRule = EmaRule()
    warmup_steps: int = Field(default=0, ge=0, description="steps before adversarial training")
    warmup_mode: Literal["adv", "full"] = Field(
        default="adv",
        description="what warm-up leaves out: the adversarial terms, or all of adversarial training",
    )
    loss_configs: AutoencoderLosses | None = None
    eval_loss_configs: ValidationMetrics = Field(
        default=ValidationMetrics(),
        description="metrics of validation and their keywords; sisdr and stft if none is named",
    )
    pre_encoded: Literal[False] = False
    gradient_release: Literal[False] = False
    gradient_checkpointing: Recomputation = Field(
        default=False,
        description="recompute activations: in every block, in the first of every n, or elementwise ones",
    )
    demo: AutoencoderDemoSection | None = None
