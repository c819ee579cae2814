"""Settings of a training step of diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from stable_audio.diffusion.item_means import LossNormalization
from stable_audio.nn.checkpointing import Recomputation
from stable_audio.ranges import Probability, check_ranges

NotNegative = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What a training step of diffusion does.

    Attributes:
        cfg_dropout_prob: share of items trained without conditioning, per slot.
        mask_padding: leave padding out of the loss.
        mask_padding_dropout: share of batches whose loss includes padding all the same.
        mask_loss_weight: weigh the errors of padding, and of what inpainting keeps, so in the loss of each
            item, over whose means the loss is a mean; null: 0 for models that hide padding from attention or
            normalise the loss, otherwise mask_padding decides.
        loss_normalization: divide squared errors by the variance of their target over channels at each frame
            (timestep), over the item (sample) or over each of its channels (sample_channel).
        loss_norm_eps: is added to that variance.
        ot_coupling: assign the noise of a batch to its items so that the paths are short, by mini-batch
            optimal transport within each process.
        silence_extension_scale_seconds: mean of the random silence behind each clip that a model which hides
            padding from attention sees and learns besides.
        pre_encoded: the dataset holds latents, unscaled, as the encode command stores them.
        cache_latents: keep the latents of each clip in memory once they are computed, without the noise of a
            VAE, as long as the run lasts. For datasets whose clips never change.
        encoding_precision: type in which a frozen autoencoder encodes the sound of a batch: float32, float16,
            or auto, which is float16 on a CUDA device; its weights in files, and demos, keep their own.
        encode_ahead: let the frozen networks encode the sound and read the texts of the next batch while the
            device computes a step, on a CUDA stream of its own; takes the memory of both at once.
        cache_text: folder in which the features of texts are kept, so that a frozen text encoder reads each
            text once, in this run or an earlier one, and leaves the memory when no new text comes any more.
        log_loss_info: log the loss in ten ranges of the noise level, too.
        gradient_checkpointing: recompute activations in the backward pass, to save memory: in every block
            (true), in the first of every n (n), or elementwise results alone, such as norms and gates, with
            the results of products, attention and convolutions kept ("elementwise").
        offload_blocks: keep the frozen weights of the backbone's blocks in host memory, and bring those of a
            block to the GPU when it computes; for adapters and other partial training, with
            gradient_checkpointing in every block.

    Raises:
        ValueError: a share outside of [0, 1], or a negative weight or length.
    """

    cfg_dropout_prob: Probability = 0.0
    mask_padding: bool = False
    mask_padding_dropout: Probability = 0.0
    mask_loss_weight: NotNegative | None = None
    loss_normalization: LossNormalization = "none"
    loss_norm_eps: NotNegative = 1e-6
    ot_coupling: bool = False
    silence_extension_scale_seconds: NotNegative = 0.0
    pre_encoded: bool = False
    cache_latents: bool = False
    encoding_precision: Literal["auto", "float32", "float16"] = "auto"
    encode_ahead: bool = False
    cache_text: str | None = None
    log_loss_info: bool = True
    gradient_checkpointing: Recomputation = False
    offload_blocks: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.mask_loss_weight is not None and self.mask_loss_weight < 0:
            raise ValueError(f"mask_loss_weight must be at least 0, found {self.mask_loss_weight}")
        if self.mask_padding and self.mask_loss_weight is not None:
            raise ValueError(
                "mask_padding and mask_loss_weight both say what padding counts; give one of them"
            )
