"""Whether the loss of a batch is a mean over items, and how they are weighed."""

from __future__ import annotations

from stable_audio.diffusion.item_means import ItemMeans
from stable_audio.diffusion.step_options import StepOptions
from stable_audio.model import DiffusionModel
from stable_audio.training.errors import TrainingError


def item_means_of(options: StepOptions, model: DiffusionModel) -> ItemMeans | None:
    """How the loss is a mean over items, if the options or the model ask for it.

    Raises:
        TrainingError: an option that only a model that hides padding from attention serves.
    """
    hides = model.mask_padding_attention
    if options.silence_extension_scale_seconds > 0 and not hides:
        raise TrainingError(
            "$.training.silence_extension_scale_seconds: needs a model that hides padding from attention; "
            "set $.model.diffusion.mask_padding_attention to true, or leave it out"
        )
    if options.mask_loss_weight is None and not hides and options.loss_normalization == "none":
        return None
    return ItemMeans(
        rest_weight=options.mask_loss_weight or 0.0,
        apart=hides,
        normalization=options.loss_normalization,
        eps=options.loss_norm_eps,
    )
