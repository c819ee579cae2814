"""pydantic's errors -> findings: the place in the file, the value there, what is allowed."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Union

from pydantic import BaseModel, ValidationError

from stable_audio.config.reporting.problems import Loc, Problem, json_path, value_at
from stable_audio.wording import did_you_mean, excerpt, names, nearest

UNKNOWN = "unknown"
INTEGER = "integer"
CHOICE = "choice"
OTHER = "other"

EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
"""Type of an error of pydantic -> what it expects."""


@dataclass(frozen=True)
class Finding:
    """One mistake, located in the data of the file; `kind` says whether it may be repaired.

    Attributes:
        resembles: a key that is allowed there is spelled nearly as the unknown one.
    """

    loc: Loc
    kind: str
    message: str
    resembles: bool = False

    def problem(self) -> Problem:
        return Problem(json_path(self.loc), self.message)


def findings_of(error: ValidationError, model: Any, data: Any) -> list[Finding]:
    """Every mistake once: alternatives of a union at the same place are joined into one sentence."""
    expected: dict[Loc, list[str]] = {}
    findings: list[Finding] = []
    for entry in error.errors(include_url=False):
        loc, annotations = _resolve(entry["loc"], entry["type"], model, data)
        if entry["type"] in EXPECTED:
            expected.setdefault(loc, []).append(EXPECTED[entry["type"]])
        elif entry["type"] == "literal_error" and _has_other_types(annotations):
            expected.setdefault(loc, []).append(names(_literals(annotations)))
        else:
            findings.append(_finding(entry, loc, annotations, data))
    deeper = [f.loc for f in findings] + list(expected)
    for loc, expected_types in expected.items():
        # In a union of a scalar and a list, a wrong item is what matters, not the other alternative.
        if any(len(d) > len(loc) and d[: len(loc)] == loc for d in deeper):
            continue
        beside = [f for f in findings if f.loc == loc]  # of a value that has the type of another alternative
        if beside:
            joined = f"{beside[0].message}, or be {_alternatives(expected_types)}"
            findings = [replace(f, message=joined) if f is beside[0] else f for f in findings]
        else:
            findings.append(_wrong_type(loc, expected_types, data))
    return sorted(set(findings), key=lambda f: json_path(f.loc))


def _wrong_type(loc: Loc, expected_types: list[str], data: Any) -> Finding:
    value = value_at(data, loc)
    integral = isinstance(value, float) and value.is_integer() and "an integer" in expected_types
    expected = f"expected {_alternatives(expected_types)}"
    return Finding(loc, INTEGER if integral else OTHER, f"found {excerpt(value)}; {expected}")


def _alternatives(expected_types: list[str]) -> str:
    return " or ".join(dict.fromkeys(expected_types))


def _has_other_types(annotations: list[Any]) -> bool:
    """Whether values other than the literals among these annotations are allowed, null aside."""
    return any(
        typing.get_origin(a) is not typing.Literal and a not in (None, type(None)) for a in annotations
    )


def _finding(entry: Any, loc: Loc, annotations: list[Any], data: Any) -> Finding:
    kind, context = entry["type"], entry.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(loc, _keys(annotations))
    if kind in ("missing", "missing_argument"):
        return Finding(loc, OTHER, f"missing; {_described(annotations)} is required here")
    if kind == "union_tag_not_found":
        tag = _tag_key(context["discriminator"])
        return Finding((*loc, tag), OTHER, f"missing; give one of {names(_tags(annotations, tag))}")
    if kind == "union_tag_invalid":
        tag = _tag_key(context["discriminator"])
        return _choice((*loc, tag), value_at(data, (*loc, tag)), _tags(annotations, tag))
    if kind in ("literal_error", "enum"):
        return _choice(loc, value_at(data, loc), _literals(annotations))
    if kind in ("value_error", "assertion_error"):
        return Finding(loc, OTHER, str(context.get("error", entry["msg"])))
    message = entry["msg"].replace("Input should", "it should")
    return Finding(loc, OTHER, f"found {excerpt(value_at(data, loc))}; {message[0].lower()}{message[1:]}")


def _unknown_key(loc: Loc, keys: list[str]) -> Finding:
    resembles = nearest(loc[-1], keys) is not None
    message = f"unknown key; {did_you_mean(str(loc[-1]), keys)}"
    if not resembles:
        condition = ", if the weights fit without it" if loc[0] == "model" else ""
        message += f"; --lenient leaves it out{condition}"
    return Finding(loc, UNKNOWN, message, resembles)


def _tag_key(discriminator: str) -> str:
    """The key that tells the members of a union apart; a function that does looks at `type`."""
    return "type" if discriminator.endswith("()") else discriminator.strip("'")


def _choice(loc: Loc, value: Any, choices: list[Any]) -> Finding:
    message = f"found {excerpt(value)}; allowed: {names(choices)}"
    hint = did_you_mean(value, [a for a in choices if isinstance(a, str)]) if isinstance(value, str) else ""
    return Finding(loc, CHOICE, f"{message}; {hint}" if hint.startswith("did") else message)


def _resolve(loc: Loc, kind: str, model: Any, data: Any) -> tuple[Loc, list[Any]]:
    """The place in the data without union tags, and the annotations that apply there.

    For unknown keys the annotations are those of the object that holds the key.
    """
    place: list[str | int] = []
    annotations = list(_flatten(model))
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        inside = _has(data, part)
        if not inside and not (last and kind == "missing"):
            annotations = _narrow(annotations, part)
            continue
        place.append(part)
        if kind == "extra_forbidden" and last:
            break
        annotations = [a for holder in annotations for a in _below(holder, part)]
        data = data[part] if inside else None
    return tuple(place), annotations


def _has(data: Any, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(data, list) and part < len(data)
    return isinstance(data, dict) and part in data


def _flatten(annotation: Any) -> Iterator[Any]:
    """The alternatives of unions, without Annotated."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _flatten(args[0])
    elif origin in (Union, types.UnionType):
        for arg in args:
            yield from _flatten(arg)
    else:
        yield annotation


def _narrow(annotations: list[Any], tag: str | int) -> list[Any]:
    """The union members that a tag of pydantic's location names."""
    matches = [
        a
        for a in annotations
        if _is_model(a) and (tag in _tag_values(a) or getattr(a, "layout", None) == tag)
    ]
    return matches or annotations


def _below(holder: Any, part: str | int) -> Iterator[Any]:
    if _is_model(holder):
        for name, field in holder.model_fields.items():
            if part in (name, field.alias):
                yield from _flatten(field.annotation)
        return
    args = typing.get_args(holder)
    if typing.get_origin(holder) in (list, tuple):
        for arg in args:
            yield from _flatten(arg)
    elif typing.get_origin(holder) is dict:
        yield from _flatten(args[1])


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys(annotations: list[Any]) -> list[str]:
    models = [a for a in annotations if _is_model(a)]
    return list(dict.fromkeys(f.alias or n for m in models for n, f in m.model_fields.items()))


def _tag_values(model: type[BaseModel]) -> list[Any]:
    fields = (model.model_fields.get(name) for name in ("type", "model_type", "dataset_type"))
    return [v for f in fields if f is not None for v in _literals([f.annotation])]


def _tags(annotations: list[Any], tag: str) -> list[Any]:
    models = [a for a in annotations if _is_model(a) and tag in a.model_fields]
    return [v for m in models for v in _literals(list(_flatten(m.model_fields[tag].annotation)))]


def _literals(annotations: list[Any]) -> list[Any]:
    return [v for a in annotations if typing.get_origin(a) is Literal for v in typing.get_args(a)]


_KIND_OF_TYPE = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


def _described(annotations: list[Any]) -> str:
    described = [_describe_one(a) for a in annotations if a is not type(None)]
    return " or ".join(dict.fromkeys(described)) or "a value"


def _describe_one(annotation: Any) -> str:
    if annotation in _KIND_OF_TYPE:
        return _KIND_OF_TYPE[annotation]
    if typing.get_origin(annotation) is Literal:
        return f"one of {names(typing.get_args(annotation))}"
    if annotation in (list, tuple) or typing.get_origin(annotation) in (list, tuple):
        return "a list"
    return "an object" if _is_model(annotation) or typing.get_origin(annotation) is dict else "a value"
