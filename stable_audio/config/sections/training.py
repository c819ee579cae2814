"""`training` sections of diffusion models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt
from pydantic import Field, model_validator

from stable_audio.conditioning.inpainting import MaskKind, MaskOptions
from stable_audio.config.schemas.component import Component, component
from stable_audio.config.schemas.derived import Derived
from stable_audio.config.schemas.leaf import Leaf, Section, keys_of, leaf_model
from stable_audio.config.sections.sampling import DemoSamplingSection
from stable_audio.diffusion.losses import LOSSES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.step_options import StepOptions
from stable_audio.diffusion.timesteps import TIMESTEP_SAMPLERS
from stable_audio.optim.averaging import AveragingRule
from stable_audio.optim.step_limits import StepLimits
from stable_audio.ranges import Positive, Probability
from stable_audio.transforms import TRANSFORMS
from stable_audio.transforms.adapters import Adapters, BasePrecision


class TorchClass(Section):
    """A class of torch.optim by name (or one of ours) and its keywords."""

    type: str
    config: dict[str, Any] = Field(default={})


class OptimizerSection(Section):
    """Optimizer and, optionally, LR scheduler, which steps after every optimizer step."""

    optimizer: TorchClass
    scheduler: TorchClass | None = None


class DiffusionOptimizers(Section):
    """`optimizer_configs` of diffusion models."""

    diffusion: OptimizerSection


EmaRule: TypeAlias = Derived[Leaf, leaf_model(AveragingRule)]
GuardSection: TypeAlias = Derived[Leaf, leaf_model(StepLimits)]


class EmaSection(EmaRule):
    """Averaging of weights of diffusion models."""

    include_conditioner: bool = Field(
        default=False, description="average the conditioners too, not only the backbone"
    )


class LossTerm(Component):
    """One term of the loss."""

    weight: float = Field(default=1.0, ge=0)


MaskSection: TypeAlias = Derived[Leaf, leaf_model(MaskOptions)]


class InpaintingSection(Section):
    """Training of inpainting models."""

    mask_kwargs: MaskSection = MaskSection()


# The precision of the base stands beside this section, as in stable-audio-3.
AdapterSection: TypeAlias = Derived[Leaf, leaf_model(Adapters, hidden=("base_precision",))]
AnyLoss: TypeAlias = Derived[LossTerm, component(LOSSES, base=LossTerm, title="loss")]
AnyTransform: TypeAlias = Derived[Component, component(TRANSFORMS, title="transform")]
SamplerName: TypeAlias = Derived[str, Literal[tuple(SAMPLERS)]]
TimestepSamplerName: TypeAlias = Derived[str, Literal[tuple(TIMESTEP_SAMPLERS)]]


CLIPS = 8
"""Clips of which demos take the metadata, where the file names no number."""

INPAINT_KINDS: tuple[MaskKind, ...] = ("spans", "causal", "segments")
"""Masks of demos of inpainting, in turn."""


class DemoSection(Section):
    """Sounds rendered during training."""

    demo_every: Positive = Field(default=2000, description="steps between demos")
    demo_steps: Positive = Field(default=250, description="sampling steps")
    num_demos: Annotated[int, Ge(0)] | None = Field(
        default=None, description="clips per CFG scale; default: one per entry of demo_cond, else 8"
    )
    demo_seed: int = Field(
        default=0, ge=0, description="noise of demo i comes from demo_seed + i, at every step"
    )
    demo_sampler: SamplerName | None = Field(
        default=None,
        description="sampler; default: that of the model's sampling_defaults, or the objective's",
    )
    demo_sampling: DemoSamplingSection | None = Field(
        default=None, description="further settings of sampling, as in sampling_defaults of the model"
    )
    demo_guide: str | None = Field(
        default=None,
        description="checkpoint of a weaker model to steer away from, by guide_scale of demo_sampling",
    )


class CondDemoSection(DemoSection):
    """Demos of conditional models: every entry of demo_cond at every CFG scale."""

    demo_cond: list[dict[str, Any]] = Field(default=[], description="metadata of each demo")
    demo_cfg_scales: list[float] = Field(default=[6.0], min_length=1)
    demo_cond_from_batch: bool = Field(
        default=False, description="take the metadata of the run's first clips in place of demo_cond"
    )
    inpaint_demos: bool | Annotated[int, Ge(0)] | list[MaskKind] = Field(
        default=0,
        description="parts of the run's first clips to generate anew: how many, or the kinds of their masks",
    )

    @property
    def count(self) -> int:
        """Demos per CFG scale, without those of inpainting."""
        usual = CLIPS if self.demo_cond_from_batch else len(self.demo_cond)
        return usual if self.num_demos is None else self.num_demos

    @property
    def inpaint_kinds(self) -> list[MaskKind]:
        """The kind of mask of each demo of inpainting."""
        if isinstance(self.inpaint_demos, list):
            return self.inpaint_demos
        count = len(INPAINT_KINDS) if self.inpaint_demos is True else int(self.inpaint_demos)
        return [INPAINT_KINDS[i % len(INPAINT_KINDS)] for i in range(count)]


class UncondDemoSection(DemoSection):
    """Demos of unconditional models."""

    @property
    def count(self) -> int:
        """Demos."""
        return 8 if self.num_demos is None else self.num_demos


class TrainableSection(Section):
    """Parts of the model by their names, as the transform `freeze` understands them."""

    include: list[str] | None = Field(default=None, description="the only parts that are trained; null: all")
    exclude: list[str] = Field(default=[], description="parts that are not trained")
    lr_multipliers: dict[str, Annotated[float, Gt(0)]] = Field(
        default={},
        description="factor of the learning rate of a part; the last name that a weight has counts",
    )


class RunKeys(Section):
    """Settings of a run that a file may have; the command line overrides them."""

    method: str | None = Field(
        default=None,
        description="training method, one of those of the model type; default: the first one",
    )
    method_options: dict[str, Any] = Field(default={}, description="keywords of the method")
    batch_size: Positive | None = Field(
        default=None, description="items per process; --batch-size overrides it"
    )
    max_steps: Positive | None = Field(default=None, description="steps of a run; --max-steps overrides it")
    strategy: Literal["auto", "ddp", "fsdp", "hsdp", "deepspeed"] | None = Field(
        default=None, description="how several processes share the work; --strategy overrides it"
    )
    shard_size: Annotated[int, Ge(2)] | None = Field(
        default=None,
        description="processes that share one copy of the model with hsdp; --shard-size overrides it",
    )
    cpu_offload: bool | None = Field(
        default=None,
        description="with fsdp and hsdp, keep parts of weights, gradients and optimizer in host memory",
    )
    transforms: list[AnyTransform] = Field(
        default=[], description="what is done to the model once its weights are loaded, in order"
    )
    trainable: TrainableSection | None = Field(
        default=None, description="which parts are trained, and at what share of the learning rate"
    )
    log_every_n_steps: Positive | None = Field(
        default=None, description="steps between log lines, of which each is a mean; --log-every overrides it"
    )
    gradient_clip_val: Annotated[float, Ge(0)] | None = Field(
        default=None, description="maximum gradient norm, 0 = no clipping; --gradient-clip-val overrides it"
    )
    gradient_release: bool = Field(
        default=False,
        description="step on each weight in the backward pass and free its gradient; without clipping, "
        "accumulation and further processes",
    )
    guard: GuardSection | None = Field(
        default=GuardSection(),
        description="how many bad steps are skipped before the run goes back to a checkpoint; null: the "
        "first one ends the run",
    )
    teacher_model: dict[str, Any] | None = Field(
        default=None,
        description="model file of a teacher, for methods that have one; default: that inside its weights",
    )
    teacher_model_ckpt: str | None = Field(default=None, description="weights of the teacher")
    teacher_precision: Literal["float32", "float16", "bfloat16"] | None = Field(
        default=None, description="what the teacher computes in; default: as the model that is trained"
    )


# Models without conditioning have no dropout of it, and the others another default.
StepKeys: TypeAlias = Derived[Section, keys_of(StepOptions, hidden=("cfg_dropout_prob",))]


class AdapterKeys(Section):
    """Keys of a run that trains an adapter instead of the weights."""

    lora_config: AdapterSection | None = Field(
        default=None, description="train an adapter of these settings; the model itself stays as it is"
    )
    lora_ckpt_path: str | None = Field(
        default=None,
        description="file of an adapter of the same settings, or folder of its run, to start from",
    )
    base_precision: BasePrecision | None = Field(
        default=None, description="what the model that gets the adapter is held in; default: float32"
    )


class TrainingKeys(RunKeys, AdapterKeys, StepKeys):
    """Keys that conditional and unconditional diffusion training share."""

    learning_rate: float | None = Field(
        default=None, gt=0, description="Adam at this rate, unless optimizer_configs is given"
    )
    optimizer_configs: DiffusionOptimizers | None = None
    use_ema: bool = Field(
        default=True,
        description="average the weights for demos and inference files; default with lora_config: false",
    )
    ema: EmaSection = EmaSection()
    loss_configs: dict[str, AnyLoss] = Field(
        default={}, description="terms by name; 'diffusion' is the main one, mse at weight 1 if absent"
    )
    timestep_sampler: TimestepSamplerName = Field(default="uniform", description="distribution of t")
    timestep_sampler_options: dict[str, Any] = Field(
        default={}, description="keywords of the timestep sampler"
    )
    p_one_shot: Probability = Field(default=0.0, description="probability of t = 1")

    @model_validator(mode="after")
    def _adapters_are_not_averaged(self) -> TrainingKeys:
        if self.lora_config is not None and "use_ema" not in self.model_fields_set:
            self.__dict__["use_ema"] = False  # the section is frozen for everyone else
        return self


class CondTraining(TrainingKeys):
    """`training` of `diffusion_cond` and `diffusion_cond_inpaint`."""

    cfg_dropout_prob: Probability = Field(
        default=0.1, description="share of items trained without conditioning"
    )
    inpainting: InpaintingSection | None = None
    mask_padding_attention: bool = Field(default=False, description="as in model.diffusion, its better place")
    use_effective_length_for_schedule: bool = Field(
        default=False, description="as in model.diffusion, its better place"
    )
    demo: CondDemoSection | None = None


class UncondTraining(TrainingKeys):
    """`training` of `diffusion_uncond`."""

    demo: UncondDemoSection | None = None
