"""The layout of PEFT: what PEFT itself reads and writes gives the outputs of our adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stable_audio.adapters import Adapter, AdapterError
from stable_audio.adapters.peft_files import CONFIG, WEIGHTS, is_peft, read_peft, write_peft
from tests.adapters.test_conversion import Model, some_adapter

peft = pytest.importorskip("peft")
KINDS = ("lora", "dora-rows")


def inputs() -> list[torch.Tensor]:
    """One input for each layer of the backbone that adapters change."""
    noise = torch.Generator().manual_seed(5)
    return [torch.randn(s, generator=noise) for s in [(2, 6), (2, 4, 7), (2, 3, 5, 5), (2, 4)]]


def outputs(backbone: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [backbone[i](x) for i, x in enumerate(inputs())]


def ours(adapter: Adapter) -> list[torch.Tensor]:
    model = Model()
    model.stack.add(adapter)
    return outputs(model.backbone)


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        # Sums of up to 12 products of float32 around 1, in another order.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_what_we_write(kind: str, tmp_path: Path) -> None:
    adapter = some_adapter(kind, include=["model."])
    write_peft(tmp_path / "a", adapter, Model().stack)
    assert is_peft(tmp_path / "a")
    assert not is_peft(tmp_path)
    wrapped = peft.PeftModel.from_pretrained(Model().backbone, str(tmp_path / "a"))
    same(outputs(wrapped.base_model.model), ours(adapter))
    wrapped.add_adapter("other", peft.LoraConfig(r=1, target_modules=["0"]))
    wrapped.load_adapter(str(tmp_path / "a"), "again")
    wrapped.set_adapter("again")
    same(outputs(wrapped.base_model.model), ours(adapter))
    again = read_peft(tmp_path / "a")
    assert again.settings.adapter_type == kind
    same(ours(again), ours(adapter))


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_what_peft_writes(kind: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["0", "1", "2", "3"],
        use_dora=kind == "dora-rows",
        rank_pattern={"1": 4},
        alpha_pattern={"2": 5},
        use_rslora=kind == "lora",
    )
    wrapped = peft.get_peft_model(Model().backbone, config)
    noise = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
    wrapped.save_pretrained(str(tmp_path))
    adapter = read_peft(tmp_path)
    assert adapter.settings.adapter_type == kind
    assert adapter.settings.rank == 4
    same(ours(adapter), outputs(wrapped.base_model.model))


def test_a_whole_model_is_wrapped_with_its_conditioner(tmp_path: Path) -> None:
    adapter = some_adapter("dora-rows")
    with pytest.raises(AdapterError, match="changes the conditioner, too"):
        write_peft(tmp_path / "a", adapter, Model().stack)
    write_peft(tmp_path / "a", adapter, Model().stack, root="model")
    wrapped = peft.PeftModel.from_pretrained(Model(), str(tmp_path / "a")).base_model.model
    same(outputs(wrapped.backbone), ours(adapter))
    model = Model()
    model.stack.add(adapter)
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        torch.testing.assert_close(wrapped.conditioner[0](x), model.conditioner[0](x), rtol=1e-5, atol=1e-5)
    assert set(read_peft(tmp_path / "a").layers) == set(adapter.layers)


@pytest.mark.parametrize("kind", ["lora-xs", "dora-cols", "bora", "dora-rows-xs"])
def test_types_that_peft_has_not(kind: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=f"PEFT has no adapters of type '{kind}', only 'lora'"):
        write_peft(tmp_path / "a", some_adapter(kind), Model().stack, root="model")
    assert not (tmp_path / "a").exists()


def test_convolutions_with_groups_are_refused(tmp_path: Path) -> None:
    from stable_audio.adapters import AdapterSettings, AdapterStack

    stack = AdapterStack(nn.Sequential(nn.Conv1d(4, 4, 3, groups=2)))
    adapter = stack.adapter(stack.add(AdapterSettings(rank=2)))
    with pytest.raises(AdapterError, match=r"model\.0 is a convolution with 2 groups"):
        write_peft(tmp_path / "a", adapter, stack)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', and only LORA can be read"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["norm"]}, r"modules_to_save is \['norm'\]"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x', but a finite number is needed"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"alpha_pattern": [1]}, "alpha_pattern is .*, but an object is needed"),
        ({"alpha_pattern": {"0": "a"}}, "alpha_pattern.0 is 'a'"),
        ({"alpha_pattern": {"(": 3}}, "is no regular expression"),
    ],
)
def test_configs_that_mean_more(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_peft(tmp_path, some_adapter("lora"), Model().stack, root="model")
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterError, match=message):
        read_peft(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.popitem(), "lacks tensors"),
        (
            lambda t: t.update({"base_model.model.0.lora_embedding_A": torch.ones(2)}),
            "is no tensor of PEFT's",
        ),
        (lambda t: t.clear(), "has no tensors"),
        (
            lambda t: t.update({k: v[:, :1].clone() for k, v in t.items() if "lora_B" in k}),
            "but lora_B of rank 1",
        ),
        (
            lambda t: t.update({k: v[:0].clone() for k, v in t.items() if "lora_A" in k}),
            r"lora_A has no values, its shape is \(0, ",
        ),
        (
            lambda t: t.update({k: v.flatten() for k, v in t.items() if "lora_A" in k}),
            "but a matrix is needed",
        ),
        (
            lambda t: t.update({k: v / 0 for k, v in t.items() if "lora_B" in k}),
            r"lora_B holds values that are not finite",
        ),
    ],
)
def test_tensors_that_do_not_belong_together(change: Any, message: str, tmp_path: Path) -> None:
    write_peft(tmp_path, some_adapter("lora"), Model().stack, root="model")
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(AdapterError, match=message):
        read_peft(tmp_path)


def test_norms_of_another_length(tmp_path: Path) -> None:
    write_peft(tmp_path, some_adapter("dora-rows"), Model().stack, root="model")
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(
        {k: v[..., :-1].clone() if "magnitude" in k else v for k, v in tensors.items()}, tmp_path / WEIGHTS
    )
    with pytest.raises(AdapterError, match=r"has a magnitude of \d+ values for \d+ rows of lora_B"):
        read_peft(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    write_peft(tmp_path, some_adapter("lora"), Model().stack, root="model")
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-30])
    with pytest.raises(AdapterError, match="truncated or damaged"):
        read_peft(tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(AdapterError, match="give a folder that PEFT has written"):
        read_peft(tmp_path)
