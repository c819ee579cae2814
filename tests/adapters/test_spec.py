"""How adapters are named on command lines, in job files and to `generate`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_audio.adapters import Adapter, AdapterError, AdapterSpec, AdapterUse
from stable_audio.adapters.spec import uses_of
from stable_audio.adapters.stack import Gate
from tests.adapters.test_files import adapter


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a.st", AdapterSpec("a.st")),
        ("a.st:0.8", AdapterSpec("a.st", 0.8)),
        ("a:-.5:0.5-1", AdapterSpec("a", -0.5, (0.5, 1.0))),
        ("a::.1-4e-1:layers.[0-3],to_qkv", AdapterSpec("a", 1.0, (0.1, 0.4), "layers.[0-3],to_qkv")),
        ("runs/x:2::x", AdapterSpec("runs/x", 2.0, (0.0, 1.0), "x")),
        ("C:\\sounds\\a.st:2", AdapterSpec("C:\\sounds\\a.st", 2.0)),
        ("C:\\sounds\\a.st", AdapterSpec("C:\\sounds\\a.st")),
        ("a.st:loud", AdapterSpec("a.st:loud")),
    ],
)
def test_texts(text: str, spec: AdapterSpec) -> None:
    assert AdapterSpec.parse(text) == spec


def test_a_path_that_exists_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a:1"
    path.touch()
    assert AdapterSpec.parse(str(path)) == AdapterSpec(str(path))


@given(
    st.from_regex(r"[a-z./]+", fullmatch=True),
    st.floats(-4, 4),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: tuple(sorted(pair))),
    st.from_regex(r"[a-z.,\[\]0-9-]*", fullmatch=True),
)
def test_every_spec_has_a_text(
    path: str, strength: float, interval: tuple[float, float], layers: str
) -> None:
    low, high = interval
    text = f"{path}:{strength!r}:{low!r}-{high!r}:{layers}"
    assert AdapterSpec.parse(text) == AdapterSpec(path, strength, interval, layers)


@pytest.mark.parametrize("text", ["a:1:0.7-0.2", "a:1:0-1.5"])
def test_levels_out_of_order(text: str) -> None:
    with pytest.raises(ValueError, match="adapter a: interval must be 0 <= low <= high <= 1"):
        AdapterSpec.parse(text)


def test_a_strength_is_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        AdapterSpec.parse("a:1e999")
    with pytest.raises(ValueError, match="empty"):
        AdapterSpec.parse("")


def test_names_are_read_and_objects_are_taken(tmp_path: Path) -> None:
    from stable_audio.adapters import write_adapter

    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(AdapterError, match=r"the folder has no last\.safetensors"):
        uses_of([str(run)])
    write_adapter(run / "last.safetensors", adapter())
    use = AdapterUse(adapter=adapter(), strength=3.0)
    uses = uses_of([f"{run}:0.5", run, AdapterSpec(str(run), 2.0), use])
    assert [u.strength for u in uses] == [0.5, 1.0, 2.0, 3.0]
    assert {u.adapter.source for u in uses[:3]} == {str(run / "last.safetensors")}
    assert uses[3] is use


@pytest.mark.parametrize("layers", ["to_qkvv", "0,to_qkvv", "model.0", ","])
def test_a_layer_filter_that_names_no_layer_is_refused(layers: str, tmp_path: Path) -> None:
    from stable_audio.adapters import write_adapter

    path = tmp_path / "a.safetensors"
    write_adapter(path, adapter())
    wrong = layers.removeprefix("0,")
    message = f"a.safetensors: its layer filter .LAYERS of --adapter. has '{wrong}', which .* called '0', and"
    with pytest.raises(AdapterError, match=message):
        uses_of([f"{path}:1::{layers}"])
    with pytest.raises(AdapterError, match=message):
        AdapterSpec(str(path), layer_filter=layers).use()
    with pytest.raises(AdapterError, match=f"the adapter: its layer filter .* '{wrong}'"):
        AdapterUse(adapter=adapter(), gate=Gate(layer_filter=layers))
    assert uses_of([f"{path}:1::[0-3]"])[0].gate.layer_filter == "[0-3]"


def test_the_layers_of_a_message_are_few_and_those_of_the_backbone() -> None:
    one = adapter()
    tensors = one.layers["model.0"]
    many = {f"model.layers.{n}.to_qkv": tensors for n in range(40)} | {"conditioners.a.0": tensors}
    with pytest.raises(AdapterError) as error:
        AdapterUse(adapter=Adapter(one.settings, many), gate=Gate(layer_filter="conditioners"))
    assert "'layers.3.to_qkv', ... (36 more), and numbers" in str(error.value)
    assert len(str(error.value)) < 400
    alone = Adapter(one.settings, {"conditioners.a.0": tensors})
    with pytest.raises(AdapterError, match="changes the conditioner alone, so leave the filter out"):
        AdapterUse(adapter=alone, gate=Gate(layer_filter="a"))
