"""Rules between the keys of a model file, by name. They read plain data, so also files with mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stable_audio.config.reporting.problems import Problem, json_path
from stable_audio.config.rules import (
    adapters,
    autoencoder,
    encoders,
    lengths,
    model,
    objectives,
    process,
    sampling,
    slots,
    training,
)
from stable_audio.config.rules.context import Context, Rule

RULES: dict[str, Rule] = {
    "slot_ids": slots.slot_ids_exist,
    "conditioner_ids": slots.conditioner_ids_differ,
    "default_keys": slots.default_keys_belong_to_conditioners,
    "slots_served": slots.slots_are_served,
    "slots_filled": slots.slots_are_filled,
    "slot_widths": slots.slot_widths_agree,
    "mechanisms": slots.mechanisms_name_the_ids,
    "slot_layouts": slots.slots_take_the_layout,
    "modular_widths": slots.modular_widths_agree,
    "padding_mask": slots.padding_can_be_masked,
    "channels": model.channels_agree,
    "latent_axes": model.latents_have_the_right_axes,
    "sample_size": lengths.sample_size_fits,
    "objective_options": objectives.options_fit,
    "process_steps": process.steps_are_those_of_the_backbone,
    "sampling": sampling.settings_can_be_used,
    "guides": sampling.guides_have_weights,
    "demo_steps": process.demos_take_steps_that_exist,
    "process_shift": process.steps_are_not_shifted,
    "one_shot": process.objective_allows_one_shot,
    "optimizer": training.has_an_optimizer,
    "optimizer_options": training.optimizers_fit,
    "timestep_options": training.timestep_options_fit,
    "main_loss": training.main_loss_is_elementwise,
    "average": training.average_has_a_range,
    "inpainting": training.inpainting_fits,
    "teacher": training.teacher_has_weights,
    "demos": training.demos_are_complete,
    "inpaint_demos": training.inpaint_demos_fit,
    "padding_weight": training.padding_has_one_rule,
    "guard": training.guard_can_go_back,
    "gradient_release": training.released_gradients_are_not_clipped,
    "adapters": adapters.adapters_fit,
    "encoder_channels": autoencoder.encoder_channels_agree,
    "discriminator_channels": autoencoder.discriminator_channels_agree,
    "bottleneck_terms": autoencoder.bottleneck_has_the_terms,
    "losses": autoencoder.something_is_compared,
    "loss_types": autoencoder.loss_types_are_spelled,
    "pretransform_losses": autoencoder.pretransform_is_there,
    "windows": autoencoder.windows_fit_the_clips,
}
"""Rule by name; a caller may skip some, such as `sample_size` when only weights matter."""

HINTS: dict[str, Rule] = {
    "unused_conditioners": slots.conditioners_are_used,
    "unused_local_layers": slots.local_layers_are_used,
    "encoders": encoders.encoders_are_at_hand,
    "audio_channels": model.audio_channels_agree,
    "adapter_dropout": adapters.dropout_has_features,
    "one_learning_rate": training.one_learning_rate,
    "schedules": training.schedules_last,
    "other_loss_types": autoencoder.loss_types_are_read,
    "warm_up": autoencoder.warm_up_has_an_end,
}
"""Rules for what is allowed but probably a mistake, reported as warnings."""


FOR_TRAINING: dict[str, Rule] = {
    "optimizers_built": training.optimizers_are_built,
}
"""Rules for what a model must not ask for to be trained here; it can be used without."""


def check_rules(ctx: Context, rules: Mapping[str, Rule], *, skip: Sequence[str] = ()) -> list[Problem]:
    """The problems of every rule that does not hold."""
    return [
        Problem(json_path(loc), message)
        for name, rule in rules.items()
        if name not in skip
        for loc, message in rule(ctx)
    ]
