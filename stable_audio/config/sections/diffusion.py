"""`model` sections of diffusion models: backbone, slots, conditioners, pretransform."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.conditioning import CONDITIONERS
from stable_audio.config.schemas.component import Component, component
from stable_audio.config.schemas.derived import Derived
from stable_audio.config.schemas.leaf import Leaf, Section, leaf_model
from stable_audio.config.sections.pretransform import (
    AnyDecoderPart,
    BottleneckPart,
    EncoderPart,
    Positive,
    Pretransform,
)
from stable_audio.config.sections.sampling import SamplingSection
from stable_audio.config.sections.shift import any_shift
from stable_audio.config.sections.sounds import SOUND_CONFIGS
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.processes import PROCESSES
from stable_audio.types import Slot

SLOT_KEYS: dict[Slot, str] = {
    Slot.CROSS_ATTN: "cross_attention_cond_ids",
    Slot.GLOBAL: "global_cond_ids",
    Slot.PREPEND: "prepend_cond_ids",
    Slot.INPUT_CONCAT: "input_concat_ids",
    Slot.LOCAL_ADD: "local_add_cond_ids",
}
"""Slot -> the key of `model.diffusion` that lists the ids wired to it."""

FROM_WIRING = ("modular_local_dims",)
"""Keywords of backbones whose values are stated beside `config`, with the ids."""

Objective: TypeAlias = Derived[str, Literal[tuple(OBJECTIVES)]]
Shift: TypeAlias = Derived[Leaf, any_shift()]
AnyProcess: TypeAlias = Derived[Component, component(PROCESSES, title="process")]


def objective_options(name: str) -> type[Leaf]:
    """The keywords of an objective beside its process."""
    objective: Any = OBJECTIVES[name]
    return leaf_model(objective, hidden=("process",))


class DiffusionKeys(Section):
    """Keys that conditional and unconditional models share."""

    diffusion_objective: Objective = Field(default="v", description="what the backbone predicts")
    diffusion_objective_options: dict[str, Any] = Field(default={}, description="keywords of the objective")
    diffusion_process: AnyProcess | None = Field(
        default=None, description="noise level as a function of t; default: that of the objective"
    )
    distribution_shift_options: Shift | None = Field(
        default=None, description="length-dependent shift of t in training and sampling"
    )
    sampling_distribution_shift_options: Shift | None = Field(
        default=None,
        description="shift of the schedule in sampling; null: that of Stable Audio 3, for any length",
    )
    sampling_defaults: SamplingSection | None = Field(
        default=None, description="settings of sampling where a call says nothing else"
    )


class ModularLocal(Section):
    """A conditioner that the backbone reads by itself, frame by frame."""

    id: str = Field(min_length=1, description="its conditioner or pre-encoded key")
    dim: Positive = Field(description="its channels")


class DiffusionSection(Component, DiffusionKeys):
    """The backbone, and which conditioner ids go to which of its slots."""

    cross_attention_cond_ids: list[str] = Field(default=[], description="joined along the sequence")
    global_cond_ids: list[str] = Field(default=[], description="joined along features")
    prepend_cond_ids: list[str] = Field(default=[], description="joined along the sequence, before the audio")
    input_concat_ids: list[str] = Field(default=[], description="joined along channels with the noisy input")
    local_add_cond_ids: list[str] = Field(
        default=[], description="joined along channels, added to the tokens of the same frames in every block"
    )
    modular_local_cond_configs: list[ModularLocal] = Field(
        default=[],
        description="as local_add_cond_ids, with layers of its own for each id, which may be absent",
    )
    mask_padding_attention: bool = Field(
        default=False, description="hide the padding behind a clip from self-attention"
    )
    use_effective_length_for_schedule: bool = Field(
        default=False, description="shift t by the length of each clip, not of its latents"
    )


class ConditionerEntry(Component):
    """One conditioner; `id` is the metadata key that it reads."""

    id: str = Field(min_length=1)


AnyBackbone: TypeAlias = Derived[
    DiffusionSection,
    component(BACKBONES, base=DiffusionSection, title="diffusion", hidden=FROM_WIRING),
]
AnyConditioner: TypeAlias = Derived[
    ConditionerEntry,
    component(
        CONDITIONERS,
        base=ConditionerEntry,
        title="conditioner",
        provided=("output_dim",),
        hidden=("g2p", "phonemes"),
        special=SOUND_CONFIGS,
    ),
]


class ConditioningSection(Section):
    """Conditioners by id."""

    cond_dim: Positive = Field(description="features that conditioners return unless they say otherwise")
    configs: list[AnyConditioner] = Field(default=[])
    default_keys: dict[str, str] = Field(
        default={}, description="id -> metadata key read where the id is absent"
    )
    pre_encoded_keys: list[str] = Field(default=[], description="ids whose metadata already is the tensor")


class CondModel(Section):
    """`model` of `diffusion_cond` and `diffusion_cond_inpaint`."""

    diffusion: AnyBackbone
    io_channels: Positive = Field(
        description="channels of the latents, or of the audio without a pretransform"
    )
    conditioning: ConditioningSection | None = None
    pretransform: Pretransform | None = None


class UncondDiffusion(Component, DiffusionKeys):
    """The backbone of an unconditional model."""


class UncondKeys(Section):
    """Keys that both layouts of `model` of `diffusion_uncond` have."""

    io_channels: Positive | None = Field(
        default=None,
        description="channels of the latents, or of audio without a pretransform; default: the backbone's",
    )
    pretransform: Pretransform | None = None


class UncondFlatModel(UncondDiffusion, UncondKeys):
    """`model` of `diffusion_uncond` that is the backbone itself."""

    layout: ClassVar[str] = "flat"

    @property
    def diffusion(self) -> UncondDiffusion:
        """The backbone, as in the other layout."""
        return self


class DecoderSection(Component):
    """The backbone of a diffusion autoencoder; the latents enter its input_concat slot."""


AnyDiffusionDecoder: TypeAlias = Derived[
    DecoderSection,
    component(BACKBONES, base=DecoderSection, title="diffusion_decoder", hidden=FROM_WIRING),
]


class DiffusionAutoencoderModel(Section):
    """`model` of `diffusion_autoencoder`."""

    diffusion: AnyDiffusionDecoder
    latent_dim: Positive = Field(description="channels of the latents")
    downsampling_ratio: Positive = Field(description="audio samples per latent frame")
    io_channels: Positive = Field(description="audio channels")
    encoder: EncoderPart | None = None
    bottleneck: BottleneckPart | None = None
    decoder: AnyDecoderPart | None = Field(
        default=None, description="applied to the latents before the backbone"
    )
    pretransform: Pretransform | None = Field(default=None, description="diffusion runs in its space")


AnyUncondBackbone: TypeAlias = Derived[
    UncondDiffusion,
    component(UNCOND_BACKBONES, base=UncondDiffusion, title="uncond_diffusion"),
]
AnyUncondFlatModel: TypeAlias = Derived[
    UncondFlatModel,
    component(UNCOND_BACKBONES, base=UncondFlatModel, title="uncond"),
]


class UncondModelSection(UncondKeys):
    """`model` of `diffusion_uncond` with the backbone in a section, as in conditional models."""

    layout: ClassVar[str] = "section"

    diffusion: AnyUncondBackbone


def _layout(model: Any) -> str:
    """Which of the two layouts a `model` of `diffusion_uncond` has."""
    if isinstance(model, UncondKeys):
        return "flat" if isinstance(model, UncondFlatModel) else "section"
    return "section" if isinstance(model, dict) and "diffusion" in model else "flat"


UncondModel: TypeAlias = Derived[
    UncondFlatModel | UncondModelSection,
    Annotated[
        Annotated[AnyUncondFlatModel, Tag("flat")] | Annotated[UncondModelSection, Tag("section")],
        Discriminator(_layout),
    ],
]
