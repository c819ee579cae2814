"""Random damage to valid files is reported at its exact path, and never ends in a traceback."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stable_audio.config import ConfigError, load_config
from stable_audio.config.reporting.problems import json_path, value_at
from tests.config import examples

FILES = {
    "cond": examples.cond,
    "uncond": examples.uncond,
    "inpaint": examples.inpaint,
    "autoencoder": examples.autoencoder,
    "diffusion_autoencoder": examples.diffusion_autoencoder,
}

FREE = ("demo_cond", "default_keys", "timestep_sampler_options", "loss_configs")
"""Objects whose keys are the user's own (or, for options, another object's)."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)

fast = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


def objects(value: Any, loc: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all objects."""
    if isinstance(value, dict):
        yield loc
    for key, inner in value.items() if isinstance(value, dict) else _items(value):
        yield from objects(inner, (*loc, key))


def _items(value: Any) -> Iterator[tuple[int, Any]]:
    yield from enumerate(value) if isinstance(value, list) else ()


def leaves(value: Any, loc: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all scalars and lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*loc, key))
    else:
        yield loc
        for index, inner in _items(value):
            yield from leaves(inner, (*loc, index))


def found_in(data: dict[str, Any]) -> dict[str, str]:
    """Path -> message of every problem."""
    try:
        load_config(data)
    except ConfigError as error:
        return {p.path: p.message for p in error.problems}
    return {}


@fast
@given(st.data(), st.sampled_from(sorted(FILES)), st.text(string.ascii_lowercase, min_size=1, max_size=6))
def test_unknown_keys_are_reported_at_their_path(draw: Any, name: str, key: str) -> None:
    data = FILES[name]()
    loc = draw.draw(st.sampled_from([o for o in objects(data) if not set(o) & set(FREE)]))
    holder = value_at(data, loc)
    key = f"{key}_x"
    # Demos of forks have settings of their own, which are left out with a warning.
    assume(key not in holder and loc[:2] != ("training", "demo"))
    holder[key] = 1
    message = found_in(data).get(json_path((*loc, key)), "")
    assert message.startswith(("unknown key", "unknown option", "missing"))


@fast
@given(st.data(), st.sampled_from(sorted(FILES)))
def test_misspelt_keys_are_reported_with_their_right_name(draw: Any, name: str) -> None:
    data = FILES[name]()
    places = [(*o, k) for o in objects(data) if not set(o) & set(FREE) for k in value_at(data, o)]
    loc = draw.draw(st.sampled_from([p for p in places if len(p[-1]) > 4 and p[-1] not in FREE]))
    holder, key = value_at(data, loc[:-1]), loc[-1]
    spot = draw.draw(st.integers(1, len(key) - 2))
    typo = key[:spot] + key[spot + 1] + key[spot] + key[spot + 2 :]
    assume(typo != key and typo not in holder)
    holder[typo] = holder.pop(key)
    # A model_type without its key leaves nothing to compare the other keys with.
    if key != "model_type":
        assert f"did you mean '{key}'?" in found_in(data)[json_path((*loc[:-1], typo))]


@fast
@given(st.data(), st.sampled_from(sorted(FILES)))
def test_wrong_types_are_reported_with_what_was_found(draw: Any, name: str) -> None:
    data = FILES[name]()
    places = [p for p in leaves(data) if not set(p) & set(FREE) and "betas" not in p]
    loc = draw.draw(st.sampled_from(places))
    value_at(data, loc[:-1])[loc[-1]] = {"a": 1}
    problems = found_in(data)
    path = json_path(loc)
    near = [p for p in problems if p == path or p.startswith(path) or path.startswith(p)]
    assert near, problems


@fast
@given(st.data(), st.sampled_from(sorted(FILES)))
def test_dropped_keys_load_or_are_missed_at_their_path(draw: Any, name: str) -> None:
    data = FILES[name]()
    places = [(*o, k) for o in objects(data) for k in value_at(data, o)]
    loc = draw.draw(st.sampled_from(places))
    del value_at(data, loc[:-1])[loc[-1]]
    for path, message in found_in(data).items():
        if message.startswith("missing"):
            assert path in (json_path(loc), "$.training.learning_rate")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(sorted(FILES)), JSON)
def test_nothing_ends_in_a_traceback(draw: Any, name: str, value: Any) -> None:
    data = FILES[name]()
    places = [*objects(data), *leaves(data)]
    loc = draw.draw(st.sampled_from([p for p in places if p]))
    value_at(data, loc[:-1])[loc[-1]] = value
    for path, message in found_in(data).items():
        assert path.startswith("$")
        assert message
        assert "\n" not in message


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["model_type", "model", "training", "sample_size", "x"]), JSON))
def test_any_object_is_answered(data: dict[str, Any]) -> None:
    assert found_in(data)
