"""Model files -> validated configurations, or every mistake at once, including those of building parts."""

from __future__ import annotations

from collections.abc import Sequence

from stable_audio.config.reading.references import expand
from stable_audio.config.reading.sources import Source, read_source
from stable_audio.config.reading.validation import check_structure, result
from stable_audio.config.rules import HINTS, RULES, check_rules
from stable_audio.config.rules.context import Context
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
    checked = check_structure(data, tag="model_type", models=MODEL_TYPES, lenient=lenient)
    facts = gather(checked.data)
    context = Context(checked.data, facts, tuple(extra_ids))
    related = [*facts.problems, *check_rules(context, RULES, skip=skip_rules)]
    checked.warnings += check_rules(context, HINTS)
    checked.problems += [p for p in related if p not in checked.problems]
    checked.problems = [*references.problems, *(p for p in checked.problems if not references.hides(p))]
    checked.warnings += [*references.warnings, *checked.untrainable]
    config = result(checked, name)
    config._untrainable = tuple(checked.untrainable)
    config._weights = references.weights
    config._source = name
    return config
