"""Options taken whole or as keywords, and their keys in JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from stable_audio.backbones import DiT, UncondDiT
from stable_audio.config.schemas.leaf import arguments, leaf_model
from stable_audio.nn.transformer import TransformerOptions
from stable_audio.options import NO_DEFAULT, Flat, from_keywords, keywords_of, takes_keywords


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Loudness.

    Attributes:
        gain: loudness.
    """

    gain: float = 1.0
    causal: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Depth.

    Attributes:
        depth: layers.
    """

    depth: int = 2
    inner: Flat[Inner] = Inner(causal=True)


@dataclass(frozen=True, kw_only=True)
class Needed:
    rate: int
    offset: int = 0


class Network:
    """An example.

    Args:
        channels: width.
        outer: see `Outer`.
    """

    @takes_keywords
    def __init__(self, *, channels: int, outer: Flat[Outer] = Outer(depth=5), needed: Flat[Needed]) -> None:
        self.channels, self.outer, self.needed = channels, outer, needed


def test_keywords_and_whole_options_are_the_same() -> None:
    by_keyword = Network(channels=1, depth=3, gain=0.5, rate=8)
    whole = Network(
        channels=1, outer=Outer(depth=3, inner=Inner(gain=0.5, causal=True)), needed=Needed(rate=8)
    )
    assert (by_keyword.outer, by_keyword.needed) == (whole.outer, whole.needed)
    assert by_keyword.outer == Outer(depth=3, inner=Inner(gain=0.5, causal=True))


def test_functions_take_keywords_too() -> None:
    @takes_keywords
    def build(channels: int, *, outer: Flat[Outer] = Outer(depth=5), **others: Any) -> tuple[Any, ...]:
        return channels, outer, others

    assert build(3, gain=0.5, extra=1) == (
        3,
        Outer(depth=5, inner=Inner(gain=0.5, causal=True)),
        {"extra": 1},
    )
    assert list(keywords_of(build)) == ["channels", "depth", "gain", "causal", "others"]


def test_defaults_from_factories_are_those_that_they_make() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Listed:
        strides: list[int] = field(default_factory=lambda: [2, 4])

    assert keywords_of(Listed)["strides"].default == [2, 4]
    assert leaf_model(Listed)().strides == [2, 4]  # type: ignore[attr-defined]


def test_what_is_left_out_keeps_the_default_of_the_constructor() -> None:
    network = Network(channels=1, rate=8)
    assert network.outer == Outer(depth=5, inner=Inner(causal=True))
    assert network.needed == Needed(rate=8, offset=0)


def test_keywords_change_options_given_whole() -> None:
    outer = Outer(depth=7, inner=Inner(gain=2.0))
    assert Network(channels=1, rate=8, outer=outer, causal=True).outer == Outer(
        depth=7, inner=Inner(gain=2.0, causal=True)
    )
    assert Network(channels=1, rate=8, inner=Inner(gain=3.0), causal=True).outer == Outer(
        depth=5, inner=Inner(gain=3.0, causal=True)
    )


def test_unknown_and_missing_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'dept'"):
        Network(channels=1, rate=8, dept=3)
    with pytest.raises(TypeError, match="'rate'"):
        Network(channels=1)
    with pytest.raises(TypeError, match="'channels'"):
        Network(rate=8)


def test_keywords_stand_in_order_with_defaults_and_owners() -> None:
    keywords = keywords_of(Network)
    assert list(keywords) == ["channels", "depth", "gain", "causal", "rate", "offset"]
    assert [k.default for k in keywords.values()] == [NO_DEFAULT, 5, 1.0, True, NO_DEFAULT, 0]
    assert [k.owner for k in keywords.values()] == [Network, Outer, Inner, Inner, Needed, Needed]


def test_json_has_one_level() -> None:
    model = leaf_model(Network)
    assert list(model.model_fields) == ["channels", "depth", "gain", "causal", "rate", "offset"]
    texts = {n: f.description for n, f in model.model_fields.items() if f.description}
    assert texts == {"channels": "width.", "depth": "layers.", "gain": "loudness."}
    leaf = model.model_validate_json('{"channels": 1, "rate": 2, "gain": 4}')
    assert arguments(leaf) == {"channels": 1, "rate": 2, "gain": 4.0}
    assert Network(**arguments(leaf)).outer.inner == Inner(gain=4.0, causal=True)


def test_a_dataclass_may_hold_flattened_ones() -> None:
    assert from_keywords(Outer, {"gain": 4.0}) == Outer(inner=Inner(gain=4.0, causal=True))

    class Holder:
        def __init__(self, *, outer: Outer = Outer()) -> None:
            self.outer = outer

    leaf = leaf_model(Holder).model_validate_json('{"outer": {"depth": 1, "gain": 4}}')
    assert Holder(**arguments(leaf)).outer == Outer(depth=1, inner=Inner(gain=4.0, causal=True))


def test_mistakes_of_authors_are_named() -> None:
    class Bare:
        def __init__(self, *, outer: Flat[Outer] = Outer()) -> None: ...

    class Twice:
        @takes_keywords
        def __init__(self, *, gain: int = 0, outer: Flat[Outer] = Outer()) -> None: ...

    with pytest.raises(TypeError, match=r"Bare\(outer: Flat.*takes_keywords"):
        keywords_of(Bare)
    with pytest.raises(TypeError, match="Twice has two keywords named gain"):
        keywords_of(Twice)


@pytest.mark.parametrize("cls", [DiT, UncondDiT])
def test_every_option_of_the_transformer_is_a_key_of_the_dit(cls: Any) -> None:
    names = {f.name for f in fields(TransformerOptions)}
    assert names <= set(keywords_of(cls))
    assert {k.owner for n, k in keywords_of(cls).items() if n in names} == {TransformerOptions}
