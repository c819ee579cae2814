"""Model files -> validated configurations, or every mistake at once, including those of building parts."""

from __future__ import annotations

from collections.abc import Sequence

from stable_audio.config.reading.inpainting import inpainting_translated
from stable_audio.config.reading.references import expand
from stable_audio.config.reading.sources import Source, read_source
from stable_audio.config.reading.validation import Checked, check_structure, result
from stable_audio.config.reporting.problems import Problem, json_path
from stable_audio.config.rules import FOR_TRAINING, HINTS, RULES, check_rules
from stable_audio.config.rules.context import Context
from stable_audio.config.rules.lengths import rounded_sample_size
from stable_audio.config.sections.top import MODEL_TYPES, ModelConfig
from stable_audio.factory.facts import gather


def load_config(
    source: Source,
    *,
    lenient: bool = False,
    extra_ids: Sequence[str] = (),
    skip_rules: Sequence[str] = (),
    source_name: str | None = None,
) -> ModelConfig:
    """Load a model file, in the format of stable-audio-tools.

    A pretransform named by `path` gets the config found there. Its weights are not loaded; see
    `ModelConfig.weights`.

    Args:
        source: path of a JSON file, name of one that comes with the package, or its content; a dict is
            not changed.
        lenient: unknown keys become warnings.
        extra_ids: ids wired to slots that the caller supplies as ready tensors.
        skip_rules: names in `rules.RULES` of rules that are not checked.
        source_name: name of a dict in messages, such as the checkpoint that it came from.

    Raises:
        ConfigError: with every mistake of the file.
    """
    data, name, folder = read_source(source, "model", name=source_name)
    references = expand(data, folder)
    inpainting = inpainting_translated(data, extra_ids)
    checked = check_structure(data, tag="model_type", models=MODEL_TYPES, lenient=lenient)
    facts = gather(checked.data)
    context = Context(checked.data, facts, tuple(extra_ids))
    if "sample_size" not in skip_rules:
        _round_sample_size(checked, context)
    related = [*facts.problems, *check_rules(context, RULES, skip=skip_rules)]
    if data.get("model_type") in tuple(MODEL_TYPES):
        checked.warnings += check_rules(context, HINTS)
    checked.untrainable += check_rules(context, FOR_TRAINING)
    checked.problems += [p for p in related if p not in checked.problems]
    checked.problems = [*references.problems, *(p for p in checked.problems if not references.hides(p))]
    checked.warnings += [*references.warnings, *checked.untrainable]
    checked.warnings += [inpainting] if inpainting is not None else []
    config = result(checked, name)
    config._untrainable = tuple(checked.untrainable)
    config._weights = references.weights
    config._source = name
    return config


def _round_sample_size(checked: Checked[ModelConfig], context: Context) -> None:
    """Give the file's data and its config a sample_size of whole latent frames, with a warning."""
    rounded = rounded_sample_size(context)
    if rounded is None:
        return
    size, message = rounded
    checked.data["sample_size"] = size
    checked.warnings.append(Problem(json_path(("sample_size",)), message))
    if checked.config is not None:
        checked.config = checked.config.model_copy(update={"sample_size": size})
