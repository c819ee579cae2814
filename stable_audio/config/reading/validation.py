"""Plain data -> typed configuration: repairs what the format allows and names every mistake."""

from __future__ import annotations

import copy
import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from stable_audio.config.reading.compat import (
    Ignore,
    Refuse,
    Rename,
    Spread,
    drop_comments,
    foreign_key,
)
from stable_audio.config.reporting.findings import CHOICE, INTEGER, UNKNOWN, Finding, findings_of
from stable_audio.config.reporting.fork_names import foreign_value, refused_value
from stable_audio.config.reporting.problems import ConfigError, Loc, Problem, json_path, value_at
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
    checked.warnings += [Problem(json_path(loc), "ignored: it is a comment") for loc in drop_comments(data)]
    translated = foreign_value((tag,), data.get(tag))
    if isinstance(translated, Rename) and data[tag] not in models:
        _rename_value(checked, data, tag, (tag,), translated)
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
            checked.problems += [_problem(data, f) for f in findings]
            break
    return checked


def _problem(data: dict[str, Any], finding: Finding) -> Problem:
    """The mistake, with what is known about a name of a fork, or about an unknown key, instead of a guess."""
    if finding.kind == CHOICE and (known := refused_value(finding.loc, value_at(data, finding.loc))):
        return Problem(json_path(finding.loc), known)
    return finding.problem()


def _wrong_tag(data: dict[str, Any], tag: str, choices: list[str]) -> Problem:
    if tag not in data:
        return Problem(json_path((tag,)), f"missing; give one of {names(choices)}")
    if known := refused_value((tag,), data[tag]):
        return Problem(json_path((tag,)), known)
    hint = did_you_mean(str(data[tag]), choices)
    message = f"found {excerpt(data[tag])}; allowed: {names(choices)}"
    return Problem(json_path((tag,)), f"{message}; {hint}" if hint.startswith("did") else message)


def _repair(checked: Checked[Any], finding: Finding, lenient: bool) -> bool:
    """Repair the data at `finding` if the format defines how; returns whether it did."""
    holder, key = value_at(checked.data, finding.loc[:-1]), finding.loc[-1] if finding.loc else None
    if finding.kind == INTEGER:
        holder[key] = int(holder[key])
        return True
    if finding.kind == CHOICE:
        translated = foreign_value(finding.loc, holder[key])
        return isinstance(translated, Rename) and _rename_value(checked, holder, key, finding.loc, translated)
    if finding.kind != UNKNOWN:
        return False
    foreign = foreign_key(finding.loc)
    if isinstance(foreign, Rename) and foreign.to not in holder:
        holder[foreign.to] = holder.pop(key)
        return _warn(checked, finding, f"is called '{foreign.to}' here")
    if isinstance(foreign, Spread) and _spread(checked.data.get(foreign.over), str(key), holder):
        return _warn(checked, finding, f"is a key of every entry of '{foreign.over}' here")
    if isinstance(foreign, Ignore) and not (foreign.unlike_ours and finding.resembles):
        holder.pop(key, None)
        return _warn(checked, finding, f"ignored: {foreign.reason}")
    if isinstance(foreign, Refuse):
        return _refuse(checked, finding, foreign, holder.pop(key, None), lenient)
    if lenient:
        holder.pop(key, None)
        return _warn(checked, finding, f"ignored: {finding.message}")
    return False


def _warn(checked: Checked[Any], finding: Finding, message: str) -> bool:
    checked.warnings.append(Problem(json_path(finding.loc), message))
    return True


def _rename_value(checked: Checked[Any], holder: Any, key: Any, loc: Loc, translated: Rename) -> bool:
    message = f"'{holder[key]}' is called '{translated.to}' here"
    holder[key] = translated.to
    checked.warnings.append(Problem(json_path(loc), message))
    return True


def _spread(entries: Any, key: str, holder: dict[str, Any]) -> bool:
    """Move `holder[key]` to all entries that lack it; False where there is no list of entries."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return False
    value = holder.pop(key)
    for entry in entries:
        entry.setdefault(key, value)
    return True


def _refuse(checked: Checked[Any], finding: Finding, foreign: Refuse, value: Any, lenient: bool) -> bool:
    """Record a key that is not supported, which has been removed from the data."""
    training = foreign.training or finding.loc[0] == "training"
    if value in foreign.neutral or (lenient and not foreign.essential):
        return _warn(checked, finding, f"ignored: {foreign.reason}")
    # A model whose training is not supported can still generate.
    refused = checked.untrainable if training else checked.problems
    refused.append(Problem(json_path(finding.loc), replace(foreign, training=training).message()))
    return True


def valid_section(data: Any, schema: Any) -> Any:
    """Validate a section without its unknown keys, which the schema reports; None after other mistakes."""
    data = copy.deepcopy(data)
    while True:
        try:
            return _adapter(schema).validate_json(json.dumps(data))
        except ValidationError as error:
            findings = findings_of(error, schema, data)
        if any(f.kind != UNKNOWN for f in findings):
            return None
        for finding in findings:
            value_at(data, finding.loc[:-1]).pop(finding.loc[-1], None)


@functools.cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    """The validator of a section; building one takes as long as all else that a small model file needs."""
    return TypeAdapter(schema)


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
