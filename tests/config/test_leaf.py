"""The constructor is the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from stable_audio.config.schemas.component import component
from stable_audio.config.schemas.leaf import arguments, leaf_model
from stable_audio.factory.components import create


@dataclass(frozen=True)
class Options:
    """Nested settings. gain: loudness."""

    gain: float = 1.0
    names: tuple[str, ...] = ()


class Thing:
    """An example.

    Args:
        size: how big
            it is. kind: which one.
        low, high: the range.
    """

    def __init__(
        self,
        *,
        size: int,
        low: float = 0.0,
        high: float | None = None,
        kind: Literal["a", "b"] = "a",
        factors: Sequence[int] = (1, 2),
        flags: bool | list[bool] = False,
        options: Options = Options(gain=3.0),
        output_dim: int = 0,
    ) -> None:
        self.given = {"size": size, "high": high, "kind": kind, "factors": factors, "options": options}


def make(data: str, cls: Any = Thing, **kw: Any) -> Any:
    return leaf_model(cls, **kw).model_validate_json(data)


def test_every_argument_is_a_field_with_its_default_and_text() -> None:
    fields = leaf_model(Thing).model_fields
    assert list(fields) == ["size", "low", "high", "kind", "factors", "flags", "options", "output_dim"]
    assert fields["size"].is_required()
    assert fields["factors"].default == [1, 2]
    assert fields["size"].description == "how big it is."
    assert fields["low"].description == fields["high"].description == "the range."
    assert fields["kind"].description == "which one."
    assert leaf_model(Options).model_fields["gain"].description == "loudness."


def test_only_what_the_file_gives_is_passed_on() -> None:
    assert arguments(make('{"size": 2}')) == {"size": 2}
    found = arguments(make('{"size": 2, "high": 1, "options": {"names": ["x"]}, "factors": [3]}'))
    assert found == {"size": 2, "high": 1.0, "options": Options(names=("x",)), "factors": [3]}
    assert isinstance(Thing(**found).given["options"], Options)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ('{"size": "2"}', ("size",)),
        ('{"size": true}', ("size",)),
        ('{"size": 2.5}', ("size",)),
        ('{"size": null}', ("size",)),
        ("{}", ("size",)),
        ('{"size": 1, "low": "0"}', ("low",)),
        ('{"size": 1, "kind": "c"}', ("kind",)),
        ('{"size": 1, "options": {"gian": 1}}', ("options", "gian")),
        ('{"size": 1, "options": {"gain": "1"}}', ("options", "gain")),
        ('{"size": 1, "factors": [1, "2"]}', ("factors", 1)),
        ('{"size": 1, "more": 1}', ("more",)),
    ],
)
def test_types_are_not_converted(data: str, place: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        make(data)
    assert [e["loc"] for e in caught.value.errors()] == [place]


def test_integers_are_numbers() -> None:
    assert make('{"size": 1, "low": 3}').low == 3.0


def test_provided_and_hidden_arguments() -> None:
    assert make('{"size": 1}', provided=("size",)).size == 1
    assert arguments(make("{}", provided=("size",))) == {}
    with pytest.raises(ValidationError):
        make('{"size": 1, "output_dim": 2}', hidden=("output_dim",))


def test_constructors_that_json_cannot_call_are_refused_by_name() -> None:
    class Bad:
        def __init__(self, *, fn: type) -> None: ...

    class Bare:
        def __init__(self, *, x=1) -> None: ...

    with pytest.raises(TypeError, match=r"Bad\(fn=\.\.\.\).*cannot be given in JSON"):
        leaf_model(Bad)
    with pytest.raises(TypeError, match=r"Bare\(x=\.\.\.\)"):
        leaf_model(Bare)


def test_components_are_built_from_their_registry() -> None:
    class Other:
        def __init__(self, *, n: int = 5) -> None:
            self.n = n

    registry: dict[str, Any] = {"thing": Thing, "other": Other}
    from pydantic import TypeAdapter

    adapter = TypeAdapter(component(registry, title="t", provided=("n", "size")))
    assert create(adapter.validate_json('{"type": "other"}'), registry, n=7).n == 7
    assert create(adapter.validate_json('{"type": "other", "config": {"n": 2}}'), registry, n=7).n == 2
    built = create(adapter.validate_json('{"type": "thing", "config": {"kind": "b"}}'), registry, size=9)
    assert (built.given["size"], built.given["kind"], built.given["factors"]) == (9, "b", (1, 2))
