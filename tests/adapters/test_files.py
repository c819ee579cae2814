"""Files of adapters: written and read again, and what is said of those that do not fit."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from stable_audio.adapters import (
    ADAPTER_TYPES,
    AdapterError,
    AdapterSettings,
    AdapterStack,
    read_adapter,
    write_adapter,
)
from stable_audio.adapters.files import adapter_from

KEY = "model.0.parametrizations.weight.0."


def adapter(kind: str = "lora", size: int = 4) -> Any:
    torch.manual_seed(0)
    stack = AdapterStack(nn.Sequential(nn.Linear(size, 6)))
    return stack.adapter(stack.add(AdapterSettings(rank=2, alpha=3.0, adapter_type=kind)))


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
def test_files_hold_the_adapter(kind: str, suffix: str, tmp_path: Path) -> None:
    first = adapter(kind)
    path = tmp_path / f"a.{suffix}"
    write_adapter(path, first)
    again = read_adapter(path)
    assert again.settings == first.settings
    for key, value in first.tensors().items():
        stored = value.half().float() if suffix == "safetensors" else value
        assert torch.equal(again.tensors()[key], stored)
    stack = AdapterStack(nn.Sequential(nn.Linear(4, 6)))
    assert {*stack.adapter(stack.add(again)).tensors()} == {*first.tensors()}


def changed(path: Path, how: Any, metadata: dict[str, str] | None = None) -> Path:
    write_adapter(path, adapter("dora-rows"))
    tensors = load_file(path)
    how(tensors)
    values = {"lora_config": json.dumps(adapter("dora-rows").settings.values())}
    save_file(tensors, path, metadata=metadata or values)
    return path


@pytest.mark.parametrize(
    ("how", "metadata", "message"),
    [
        (lambda t: t.pop(KEY + "magnitude"), None, "needs 'lora_A', 'lora_B', 'magnitude'"),
        (lambda t: t.update({"model.0.weight": torch.ones(1)}), None, "is no tensor of an adapter"),
        (lambda t: None, {"lora_config": '{"adapter_type": "lokr"}'}, "found 'lokr'"),
        (lambda t: None, {"lora_config": "{"}, "is not JSON"),
        (lambda t: None, {"lora_config": "[]"}, "an object is needed"),
        (lambda t: t.clear(), None, "has no tensors of an adapter"),
        (lambda t: t.update({KEY + "lora_A": torch.ones(3)}), None, r"lora_A of the shape \(3,\)"),
        (lambda t: t.pop(KEY + "lora_B"), None, "has the tensors 'lora_A', 'magnitude', but"),
        (
            lambda t: t.update({KEY + "lora_A": torch.ones(3, 4)}),
            None,
            "lora_A of rank 3, but lora_B of rank 2",
        ),
        (lambda t: t.update({KEY + "lora_B": torch.ones(5, 2)}), None, "magnitude of 6 values for 5 rows of"),
        (lambda t: t.update({KEY + "magnitude": torch.ones(4)}), None, "magnitude of 4 values for 6 rows of"),
        (lambda t: t.update({KEY + "lora_A": torch.ones(0, 4)}), None, r"lora_A has no values, .* \(0, 4\)"),
        (lambda t: t.update({KEY + "lora_B": torch.ones(0)}), None, "lora_B has no values"),
        (lambda t: t[KEY + "lora_A"][0, 1:3].fill_(torch.nan), None, "lora_A holds values .* 2 of 8; copy"),
        (lambda t: t[KEY + "lora_B"][0, 0].fill_(torch.inf), None, "lora_B holds values that are not finite"),
        (
            lambda t: t[KEY + "magnitude"][0].fill_(-torch.inf),
            None,
            "magnitude holds values .* finite, 1 of 6",
        ),
        (
            lambda t: t.update({KEY + "lora_A": torch.ones(2, 4).int()}),
            None,
            "lora_A has values of type int32",
        ),
    ],
)
def test_what_is_wrong_with_a_file(how: Any, metadata: Any, message: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "a.safetensors", how, metadata)
    with pytest.raises(AdapterError, match=message) as error:
        read_adapter(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
def test_tensors_that_are_damaged(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    first = adapter(kind)
    for name, value in first.layers["model.0"].items():
        for broken, found in ((value / 0, "not finite"), (value[:0], "no values")):
            write_adapter(path, replace(first, layers={"model.0": {**first.layers["model.0"], name: broken}}))
            with pytest.raises(AdapterError, match=f"{name} h.* {found}") as error:
                read_adapter(path)
            assert str(error.value).startswith(f"{path}: {KEY}{name}")


def test_a_term_within_singular_vectors_is_square() -> None:
    first = adapter("lora-xs")
    tensors = {KEY + "M_xs": first.layers["model.0"]["M_xs"][:1]}
    with pytest.raises(AdapterError, match=r"model\.0 has an M_xs of the shape \(1, 2\), but it is square"):
        adapter_from(tensors, first.settings.values(), source="a")


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_truncated_and_absent_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(AdapterError, match="no such file"):
        read_adapter(path)
    write_adapter(path, adapter())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(AdapterError, match="truncated"):
        read_adapter(path)
    with pytest.raises(AdapterError, match=r"written as \.safetensors or \.ckpt"):
        write_adapter(tmp_path / "a.pt", adapter())


def test_the_file_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(path, adapter())
    stack = AdapterStack(nn.Sequential(nn.Linear(5, 6)))
    with pytest.raises(AdapterError, match=r"model\.0 has tensors of the shapes"):
        stack.add(read_adapter(path))
    stack = AdapterStack(nn.ModuleDict({"other": nn.Linear(4, 6)}))
    with pytest.raises(AdapterError, match=r"belongs to another model: this one has no 'model\.0'"):
        stack.add(read_adapter(path))
    assert not stack.settings


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["rank", "alpha", "adapter_type", "dropout", "include", "exclude", "svd_bases_path"])


@given(st.dictionaries(KEYS, VALUES, max_size=7))
def test_any_settings_make_an_adapter_or_one_sentence(values: dict[str, Any]) -> None:
    first = adapter()
    error = None
    try:
        again = adapter_from(first.tensors(), values, source="a.safetensors")
    except AdapterError as raised:
        error = str(raised)
    if error is not None:
        assert error.startswith("a.safetensors, lora_config: ")
        assert "\n" not in error
        return
    assert all(
        isinstance(part, str) for part in [*(again.settings.include or ()), again.settings.adapter_type]
    )
    assert json.loads(json.dumps(again.settings.values())) == again.settings.values()
    # Whatever is accepted can be used.
    stack = AdapterStack(nn.Sequential(nn.Linear(4, 6)))
    stack.add(again)
    assert next(iter(stack.weights().values())).isfinite().all()


@given(st.binary(max_size=200), st.sampled_from(["safetensors", "ckpt"]))
def test_any_bytes_are_refused_in_one_sentence(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        path.write_bytes(content)
        with pytest.raises(AdapterError) as error:
            read_adapter(path)
    assert str(error.value).startswith(str(path))


def test_entries_of_other_types_are_named(tmp_path: Path) -> None:
    for key, value in [
        ("include", "to_qkv"),
        ("exclude", [1]),
        ("rank", 2.0),
        ("rank", True),
        ("alpha", "2"),
    ]:
        values = {**adapter().settings.values(), key: value}
        with pytest.raises(AdapterError, match=f"a, lora_config: {key}: found .*; it must be a"):
            adapter_from(adapter().tensors(), values, source="a")


@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
def test_tensors_of_another_rank_than_they_say(kind: str, tmp_path: Path) -> None:
    """The tensors count, as in stable-audio-3 where the metadata have no rank; alpha / rank is as told."""
    first = adapter(kind)
    values = {**first.settings.values(), "rank": 4}
    again = adapter_from(first.tensors(), values, source="a")
    stack = AdapterStack(nn.Sequential(nn.Linear(4, 6)))
    assert {*stack.adapter(stack.add(again)).tensors()} == {*first.tensors()}
    assert again.settings.scaling == 3.0 / 4
