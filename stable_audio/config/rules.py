"""Rules between the keys of a model file, by name. They run on plain data, so also on half-wrong files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stable_audio.config import autoencoder_rules, model_rules, process_rules, training_rules
from stable_audio.config.context import Context, Rule
from stable_audio.config.problems import Problem, json_path

RULES: dict[str, Rule] = {
    "slot_ids": model_rules.slot_ids_exist,
    "conditioner_ids": model_rules.conditioner_ids_differ,
    "default_keys": model_rules.default_keys_belong_to_conditioners,
    "slots_served": model_rules.slots_are_served,
    "slots_filled": model_rules.slots_are_filled,
    "slot_widths": model_rules.slot_widths_agree,
    "mechanisms": model_rules.mechanisms_name_the_ids,
    "slot_layouts": model_rules.slots_take_the_layout,
    "channels": model_rules.channels_agree,
    "latent_axes": model_rules.latents_have_the_right_axes,
    "sample_size": model_rules.sample_size_fits,
    "process_steps": process_rules.steps_are_those_of_the_backbone,
    "demo_steps": process_rules.demos_take_steps_that_exist,
    "process_shift": process_rules.steps_are_not_shifted,
    "one_shot": process_rules.pure_noise_says_something,
    "optimizer": training_rules.has_an_optimizer,
    "optimizer_options": training_rules.optimizers_fit,
    "timestep_options": training_rules.timestep_options_fit,
    "main_loss": training_rules.main_loss_is_elementwise,
    "average": training_rules.average_has_a_range,
    "inpainting": training_rules.inpainting_fits,
    "teacher": training_rules.teacher_has_weights,
    "demos": training_rules.demos_are_complete,
    "encoder_channels": autoencoder_rules.encoder_hears_the_audio,
    "discriminator_channels": autoencoder_rules.discriminator_hears_the_audio,
    "bottleneck_terms": autoencoder_rules.bottleneck_has_the_terms,
    "losses": autoencoder_rules.something_is_compared,
    "pretransform_losses": autoencoder_rules.pretransform_is_there,
    "windows": autoencoder_rules.windows_fit_the_clips,
}
"""Rule by name; a caller may skip some, such as `sample_size` when only weights matter."""

HINTS: dict[str, Rule] = {
    "unused_conditioners": model_rules.conditioners_are_used,
    "audio_channels": model_rules.audio_channels_agree,
    "one_learning_rate": training_rules.one_learning_rate,
    "schedules": training_rules.schedules_last,
    "warm_up": autoencoder_rules.warm_up_has_an_end,
}
"""What is allowed but hardly meant: reported as warnings."""


def check_rules(ctx: Context, rules: Mapping[str, Rule], *, skip: Sequence[str] = ()) -> list[Problem]:
    """Everything that does not hold."""
    return [
        Problem(json_path(loc), message)
        for name, rule in rules.items()
        if name not in skip
        for loc, message in rule(ctx)
    ]
