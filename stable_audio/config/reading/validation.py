"""Plain data -> typed configuration: repairs what the format allows and names every mistake."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from stable_audio.config.reading.compat import Ignore, Refuse, Rename, foreign_key
from stable_audio.config.reporting.findings import INTEGER, UNKNOWN, Finding, findings_of
from stable_audio.config.reporting.problems import ConfigError, Problem, json_path, value_at
from stable_audio.wording import did_you_mean, excerpt, names

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)


@dataclass
class Checked(Generic[M]):
    """Result of a validation.

    Attributes:
        data: the file's data after repairs.
        config: the validated config; None when there are problems.
        problems: the mistakes in the file.
        untrainable: settings of training that are not supported, which do not matter for generation.
        warnings: keys that were renamed or removed.
    """

    data: dict[str, Any]
    config: M | None = None
    problems: list[Problem] = field(default_factory=list)
    untrainable: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def check_structure(
    data: dict[str, Any], *, tag: str, models: Mapping[str, type[M]], lenient: bool = False
) -> Checked[M]:
    """Validate `data` (changed in place by repairs) with the model that `data[tag]` names.

    Args:
        lenient: unknown keys become warnings.
    """
    checked: Checked[M] = Checked(data)
    name = data.get(tag)
    if not isinstance(name, str) or name not in models:
        checked.problems.append(_wrong_tag(data, tag, list(models)))
        return checked
    model = models[name]
    while True:
        try:
            # JSON mode takes lists for tuples and still converts no type into another.
            checked.config = model.model_validate_json(json.dumps(data))
            break
        except ValidationError as error:
            findings = findings_of(error, model, data)
        if not any([_repair(checked, finding, lenient) for finding in findings]):
            checked.problems += [f.problem() for f in findings]
            break
    return checked


def _wrong_tag(data: dict[str, Any], tag: str, choices: list[str]) -> Problem:
    if tag not in data:
        return Problem(json_path((tag,)), f"missing; give one of {names(choices)}")
    hint = did_you_mean(str(data[tag]), choices)
    message = f"found {excerpt(data[tag])}; allowed: {names(choices)}"
    return Problem(json_path((tag,)), f"{message}; {hint}" if hint.startswith("did") else message)


def _repair(checked: Checked[Any], finding: Finding, lenient: bool) -> bool:
    """Repair the data at `finding` if the format defines how; returns whether it did."""
    holder, key = value_at(checked.data, finding.loc[:-1]), finding.loc[-1] if finding.loc else None
    if finding.kind == INTEGER:
        holder[key] = int(holder[key])
        return True
    if finding.kind != UNKNOWN:
        return False
    foreign = foreign_key(finding.loc)
    if isinstance(foreign, Rename) and foreign.to not in holder:
        holder[foreign.to] = holder.pop(key)
        checked.warnings.append(Problem(json_path(finding.loc), f"is called '{foreign.to}' here"))
    elif isinstance(foreign, Ignore) or (isinstance(foreign, Refuse) and holder[key] in foreign.neutral):
        holder.pop(key, None)
        checked.warnings.append(Problem(json_path(finding.loc), f"ignored: {foreign.reason}"))
    elif isinstance(foreign, Refuse):
        # A model whose training is not supported can still generate.
        refused = checked.untrainable if finding.loc[0] == "training" else checked.problems
        refused.append(Problem(json_path(finding.loc), f"not supported: {foreign.reason}; remove the key"))
        holder.pop(key, None)
    elif lenient:
        holder.pop(key, None)
        checked.warnings.append(Problem(json_path(finding.loc), f"ignored: {finding.message}"))
    else:
        return False
    return True


def valid_section(data: Any, schema: Any) -> Any:
    """Validate a section without its unknown keys, which the schema reports; None after other mistakes."""
    data = copy.deepcopy(data)
    while True:
        try:
            return TypeAdapter(schema).validate_json(json.dumps(data))
        except ValidationError as error:
            findings = findings_of(error, schema, data)
        if any(f.kind != UNKNOWN for f in findings):
            return None
        for finding in findings:
            value_at(data, finding.loc[:-1]).pop(finding.loc[-1], None)


def result(checked: Checked[M], name: str) -> M:
    """The configuration, its warnings logged under the name of its file.

    Raises:
        ConfigError: with every mistake.
    """
    if checked.warnings:
        log.warning("%s: %s", name, "; ".join(str(w) for w in checked.warnings))
    if checked.problems or checked.config is None:
        raise ConfigError(list(dict.fromkeys(checked.problems)), name)
    return checked.config
