"""Runs that train an adapter: what they change and save, how they go on, and how their files are used."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from stable_audio.adapters import (
    ADAPTER_TYPES,
    AdapterError,
    AdapterSettings,
    AdapterStack,
    base_hash,
    read_adapter,
)
from stable_audio.adapters.passport import config_hash
from stable_audio.checkpoints import CheckpointError, export, load_model
from stable_audio.checkpoints.checksums import save_torch_file
from stable_audio.checkpoints.run_adapters import newest_adapter, read_newest_adapter
from stable_audio.checkpoints.shards import read_shards, taken_apart
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.saving.checkpoint_files import last_steps
from stable_audio.training.saving.shard_writing import ShardWriting
from tests.training.building import demo_section, stored, tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

CLIPS = {"dataset_type": "synthetic", "split": "val", "num_clips": 4}
LORA = {"rank": 2, "adapter_type": "dora-rows", "include": ["layers.[0-1]", "conditioners"]}


def config(**training: Any) -> dict[str, Any]:
    return tiny_config(**{"lora_config": LORA, "cfg_dropout_prob": 0.5, **training})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model none of whose layers is 0, as in a new one: rows of 0 have no norm to train."""
    torch.manual_seed(7)
    model = create_model_from_config(load_config(tiny_config()))
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return export(model, tmp_path_factory.mktemp("base") / "base.safetensors", config=tiny_config())


def run(folder: Path, base: Path, name: str = "run", settings: Any = None, **options: Any) -> Path:
    given = {"max_steps": 2, "pretrained_ckpt_path": str(base), **options}
    assert tiny_run(folder, settings or config(), name=name, **given).start() == 0
    return folder / name


def state(path: Path, **options: Any) -> dict[str, Tensor]:
    return load_model(path, **options)[0].state_dict()


def merged_by_hand(base: Path, adapter: Path) -> dict[str, Tensor]:
    model: Any = load_model(base)[0]
    stack = AdapterStack(model.backbone, model.conditioner)
    stack.add(read_adapter(adapter))
    stack.merge()
    return model.state_dict()  # type: ignore[no-any-return]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [k for k, v in one.items() if not torch.equal(v, other[k])] == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The folder of a run of two steps."""
    return run(tmp_path_factory.mktemp("trained"), base)


def test_the_adapter_alone_is_trained_and_saved(trained: Path, base: Path) -> None:
    adapter = read_adapter(trained)
    assert adapter.settings == AdapterSettings(**LORA, alpha=2)
    moved = [layer for layer, tensors in adapter.layers.items() if bool(tensors["lora_B"].any())]
    assert any(name.startswith("model.") for name in moved)
    assert any(name.startswith("conditioners.") for name in moved)
    assert all("layers." in name or "conditioners" in name for name in adapter.layers)
    with safe_open(str(trained / "last.safetensors"), framework="pt") as file:
        assert {*file.metadata()} == {"lora_config", "passport"}
        assert {file.get_tensor(k).dtype for k in file.keys()} == {torch.float16}  # noqa: SIM118
    content = load_torch_file(trained / "last.ckpt")
    assert {k.rpartition(".")[2] for k in content["state_dict"]} == {"lora_A", "lora_B", "magnitude"}
    assert content["stable_audio"]["ema"] is None
    count = len(content["optimizer_states"][0]["state"])
    assert count == len(content["state_dict"]) == len(adapter.tensors())
    step = trained / "checkpoints" / "step=00000002.safetensors"
    assert not step.exists() or step.read_bytes() == (trained / "last.safetensors").read_bytes()


def test_the_passport_says_where_the_adapter_comes_from(trained: Path, base: Path) -> None:
    passport = read_adapter(trained).passport
    assert passport is not None
    assert passport.base is not None
    assert passport.data is not None
    assert passport.base.path == str(base)
    assert passport.base.name == f"{base.parent.name}/{base.name}"
    assert passport.base.hash == base_hash(load_model(base)[0])
    assert (passport.step, passport.seed) == (2, 42)
    assert last_steps(trained) == {2}
    assert passport.config_hash == config_hash(json.loads((trained / "model.json").read_text()))
    assert passport.data.clips > 0
    assert len(passport.data.hash) == 64


def test_loading_a_run_gives_base_and_adapter_together(trained: Path, base: Path, tmp_path: Path) -> None:
    expected = merged_by_hand(base, trained)
    assert_equal(state(trained), expected)
    assert any(not torch.equal(v, state(base)[k]) for k, v in expected.items())
    alone = tmp_path / "adapter.safetensors"  # away from its run, it has the config of its base
    shutil.copy(trained / "last.safetensors", alone)
    assert_equal(state(alone), expected)
    # The training checkpoint has the tensors in 32 bits.
    near = state(trained / "last.ckpt")
    assert all(torch.allclose(v, expected[k], rtol=0, atol=1e-3) for k, v in near.items())
    assert load_model(trained)[1].training.lora_config is not None
    assert load_model(alone)[1].training.lora_config is None


def test_a_base_in_parts(tmp_path: Path) -> None:
    options = {"max_steps": 1, "demos": False, "checkpoint_format": "shards"}
    assert tiny_run(tmp_path, tiny_config(), name="base", **options).start() == 0
    parts = tmp_path / "base" / "checkpoints" / "step=00000001.shards"
    settings = config(lora_config={"rank": 2})
    run(tmp_path, parts, settings=settings, max_steps=1, demos=False)
    folder = run(tmp_path, parts, settings=settings, recover=True, demos=False)
    assert_equal(state(folder), merged_by_hand(parts, folder))


def test_the_newest_adapter_of_a_run_in_parts_is_taken(tmp_path: Path, base: Path) -> None:
    """`last.safetensors` is as old as the last stop, or absent after a kill."""
    options: dict[str, Any] = {"checkpoint_format": "shards", "demos": False}
    folder = run(tmp_path, base, **options)
    written, first = (folder / "last.safetensors").read_bytes(), read_adapter(folder)
    assert newest_adapter(folder) == folder / "last.safetensors"
    run(tmp_path, base, max_steps=3, recover=True, **options)
    second = read_adapter(folder)
    (folder / "last.safetensors").write_bytes(written)
    parts = folder / "checkpoints" / "step=00000003.shards"
    for _ in range(2):
        assert newest_adapter(folder) == newest_adapter(parts) == parts
        found = read_newest_adapter(folder)
        assert found.settings.values() == first.settings.values()
        assert found.passport is not None
        assert found.passport.base == first.passport.base  # type: ignore[union-attr]
        assert found.passport.step == 3
        for layer, tensors in second.layers.items():
            assert all(torch.equal(v, found.layers[layer][k].half().float()) for k, v in tensors.items())
        (folder / "last.safetensors").unlink(missing_ok=True)
    flags = ["--steps", "1", "--seed", "1", "--seconds", "0.2", "--device", "cpu", "--adapter", str(folder)]
    given = ["--ckpt-path", str(base), "--out", str(tmp_path / "clips")]
    assert main(["generate", *flags, *given]) == 0
    (recipe,) = (tmp_path / "clips").glob("*.json")
    (used,) = json.loads(recipe.read_text())["recipe"]["adapters"]
    assert used["path"] == str(parts.resolve())
    tiny_run(tmp_path, tiny_config(), name="whole", max_steps=1, **options).start()
    with pytest.raises(AdapterError, match="of a run that trains no adapter"):
        read_newest_adapter(tmp_path / "whole" / "checkpoints" / "step=00000001.shards")


def _damaged(state: dict[str, Tensor], how: str) -> str:
    """Damage the adapter in the state of a model; returns the key of the tensor."""
    key = next(k for k in state if k.startswith("model.backbone.") and k.endswith(".lora_A"))
    value = state[key]
    if how == "not finite":
        value[0, 1] = torch.nan
    elif how == "rank":
        state[key] = value[:1].clone()
    elif how == "absent":
        del state[key]
    else:
        for other in [k for k in state if "weight_updates" in k]:
            del state[other]
    return key


DAMAGES = {
    "not finite": r"{key} holds values that are not finite, 1 of \d+; copy the file again",
    "rank": r"{layer} has lora_A of rank 1, but lora_B of rank 2; copy the file again",
    "absent": r"{layer} has the tensors 'lora_B', 'magnitude', but the type 'dora-rows' needs",
    "all absent": r"lacks the tensors of the adapter that its run trains",
}


def _refusal(how: str, path: Path, key: str) -> str:
    layer = key.replace("model.backbone.", "model.").partition(".weight_updates")[0]
    said = DAMAGES[how].format(key=re.escape(key.removeprefix("model.")), layer=re.escape(layer))
    return rf"{re.escape(str(path))}: {said}"


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_adapter_in_a_checkpoint_is_named(
    how: str, trained: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = load_torch_file(trained / "last.ckpt")
    key, path = _damaged(content["state_dict"], how), tmp_path / "damaged.ckpt"
    save_torch_file(content, path)
    said = _refusal(how, path, key)
    with pytest.raises(CheckpointError, match=said):
        load_model(path)
    assert main(["export", str(path), str(tmp_path / "whole.safetensors")]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert main(["generate", "--ckpt-path", str(path), "--out", str(tmp_path / "clips")]) == 2
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize("how", ["not finite", "rank"])
def test_a_damaged_adapter_in_parts_is_named(how: str, tmp_path: Path, base: Path) -> None:
    options: dict[str, Any] = {"checkpoint_format": "shards", "demos": False}
    folder = run(tmp_path, base, max_steps=1, **options)
    content = read_shards(folder / "checkpoints" / "step=00000001.shards")
    key, path = _damaged(content["state_dict"], how), tmp_path / "step=00000001.shards"
    ShardWriting().write(path, taken_apart(content))
    said = _refusal(how, path, key)
    with pytest.raises(AdapterError, match=said):
        read_newest_adapter(path)
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


def test_export_writes_a_whole_model(trained: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "whole.safetensors"
    assert main(["export", str(trained), str(out)]) == 0
    assert_equal(state(out), merged_by_hand(base, trained))
    assert "lora_config" not in safe_open(str(out), framework="pt").metadata()


@pytest.mark.parametrize("kind", ["lora", "bora", "dora-rows-xs"])
def test_a_run_goes_on_exactly(tmp_path: Path, base: Path, kind: str) -> None:
    dropout = {} if kind.endswith("xs") else {"dropout": 0.3}
    settings = config(
        lora_config={**LORA, "adapter_type": kind, **dropout}, base_precision="bf16", use_ema=True
    )
    options = {"demos": False, "accum_batches": 2}
    run(tmp_path, base, "unbroken", settings, max_steps=4, **options)
    run(tmp_path, base, "parts", settings, **options)
    run(tmp_path, base, "parts", settings, max_steps=4, recover=True, **options)
    assert_same_checkpoint(tmp_path / "unbroken" / "last.ckpt", tmp_path / "parts" / "last.ckpt")
    one, other = (read_adapter(tmp_path / name) for name in ("unbroken", "parts"))
    assert one.passport == other.passport
    assert_equal(one.tensors(), other.tensors())


def test_first_values_depend_on_the_seed_alone(tmp_path: Path, base: Path) -> None:
    def first(**options: Any) -> dict[str, Tensor]:
        made = tiny_run(tmp_path, config(), pretrained_ckpt_path=str(base), overwrite=True, **options)
        return {k: v.clone() for k, v in made.module.model.state_dict().items() if k.endswith("lora_A")}

    torch.manual_seed(1)
    one = first()
    torch.manual_seed(2)
    assert_equal(one, first(batch_size=1))
    assert not torch.equal(*(next(iter(v.values())) for v in (one, first(seed=1))))


@pytest.mark.parametrize("precision", ["bf16", "float16", "int8", "int4"])
def test_a_base_in_less_trains_an_adapter_in_float32(tmp_path: Path, base: Path, precision: str) -> None:
    if precision.startswith("int"):
        pytest.importorskip("torchao")
    settings = config(base_precision=precision, lora_config={**LORA, "adapter_type": "lora"})
    made = tiny_run(tmp_path, settings, pretrained_ckpt_path=str(base), max_steps=2, demos=False)
    trained = [p for p in made.module.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    first = {k: v.clone() for k, v in made.module.model.state_dict().items() if k.endswith("lora_A")}
    plain = tiny_run(tmp_path, config(lora_config={**LORA, "adapter_type": "lora"}), name="plain",
                     pretrained_ckpt_path=str(base), demos=False)  # fmt: skip
    assert_equal(first, {k: v for k, v in plain.module.model.state_dict().items() if k in first})
    held = {b.dtype for b in made.module.model.backbone.buffers()}
    types = {p.dtype for p in made.module.model.backbone.parameters() if not p.requires_grad} | held
    expected = {"bf16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8, "int4": torch.uint8}
    assert expected[precision] in types
    assert made.start() == 0
    unbroken = tmp_path / "run" / "last.ckpt"
    run(tmp_path, base, "parts", settings, max_steps=1, demos=False)
    run(tmp_path, base, "parts", settings, max_steps=2, demos=False, recover=True)
    assert_same_checkpoint(unbroken, tmp_path / "parts" / "last.ckpt")
    # What was rounded for training is whole in the model that the run belongs to.
    assert_equal(state(tmp_path / "run"), merged_by_hand(base, tmp_path / "run"))


def test_an_average_of_the_adapter_is_made_where_it_is_asked_for(tmp_path: Path, base: Path) -> None:
    settings = config(use_ema=True, ema={"beta": 0.5, "update_after_step": 0, "min_value": 0.5})
    folder = run(tmp_path, base, settings=settings, max_steps=4, demos=False)
    content = load_torch_file(folder / "last.ckpt")
    average = content["stable_audio"]["ema"]["average"]
    assert {k for k in average if "weight_updates" in k} == {
        k.removeprefix("model.") for k in content["state_dict"] if k.startswith("model.")
    }
    online = content["state_dict"]
    averaged = read_adapter(folder).layers["model.transformer.layers.0.self_attn.to_qkv"]["lora_B"]
    key = "backbone.transformer.layers.0.self_attn.to_qkv.weight_updates.0.lora_B"
    assert torch.equal(averaged, average[key].half().float())
    assert not torch.equal(average[key], online[f"model.{key}"])


def test_another_base_is_named(tmp_path: Path, base: Path) -> None:
    start = tmp_path / "start.safetensors"
    shutil.copy(base, start)
    folder = run(tmp_path, start)
    adapter = folder / "last.safetensors"
    start.unlink()
    with pytest.raises(CheckpointError, match=rf"{adapter}: is an adapter of {start}, which is not there"):
        load_model(adapter)
    torch.manual_seed(8)
    other = load_model(base)[0]
    torch.nn.init.normal_(other.backbone.transformer.layers[0].self_attn.to_qkv.weight)  # type: ignore[union-attr, arg-type]
    export(other, start, config=tiny_config())
    message = rf"was trained on {tmp_path.name}/start\.safetensors \(hash \w+\), but this model is {start} "
    with pytest.raises(CheckpointError, match=message):
        load_model(adapter)
    shutil.copy(base, folder / "start.safetensors")
    start.unlink()
    assert_equal(state(adapter), merged_by_hand(base, adapter))


def test_a_run_starts_from_an_adapter_of_the_same_base(tmp_path: Path, base: Path, trained: Path) -> None:
    settings = config(lora_ckpt_path=str(trained))
    made = tiny_run(tmp_path, settings, pretrained_ckpt_path=str(base), demos=False)
    key = "backbone.transformer.layers.0.self_attn.to_qkv.weight_updates.0.lora_B"
    expected = read_adapter(trained).layers["model.transformer.layers.0.self_attn.to_qkv"]["lora_B"]
    assert torch.equal(made.module.model.state_dict()[key], expected)
    wrong = config(lora_ckpt_path=str(trained), lora_config={**LORA, "rank": 3, "adapter_type": "lora"})
    with pytest.raises(
        TrainingError, match="adapter_type dora-rows there, lora in lora_config; rank 2 there, 3"
    ):
        tiny_run(tmp_path, wrong, name="b", pretrained_ckpt_path=str(base))
    narrower = config(lora_ckpt_path=str(trained), lora_config={**LORA, "include": ["layers.0"]})
    with pytest.raises(TrainingError, match="layers differ"):
        tiny_run(tmp_path, narrower, name="c", pretrained_ckpt_path=str(base))
    torch.manual_seed(1)
    other = stored(tmp_path, ".safetensors", tiny_config())
    model = load_model(other)[0]
    torch.nn.init.ones_(model.backbone.transformer.layers[0].self_attn.to_qkv.weight)  # type: ignore[union-attr, arg-type]
    export(model, other, config=tiny_config())
    with pytest.raises(TrainingError, match=r"lora_ckpt_path: .*was trained on .*, but this model is"):
        tiny_run(tmp_path, settings, name="d", pretrained_ckpt_path=str(other))
    tiny_run(tmp_path, settings, name="e", pretrained_ckpt_path=str(other), any_base=True)


def test_a_run_on_top_of_an_adapter_has_it_in_its_base(tmp_path: Path, base: Path, trained: Path) -> None:
    second = run(tmp_path, trained, "second", demos=False)
    passport = read_adapter(second).passport
    assert passport is not None
    assert passport.base is not None
    assert passport.base.path == str(trained / "last.safetensors")
    assert_equal(state(second), merged_by_hand(trained, second))
    run(tmp_path, trained, "second", max_steps=3, recover=True, demos=False)


def test_what_an_adapter_run_needs(tmp_path: Path, base: Path) -> None:
    with pytest.raises(TrainingError, match=r"lora_config: .*--pretrained-ckpt-path"):
        tiny_run(tmp_path, config())
    near = config(lora_config={"include": ["layer.0"]})
    with pytest.raises(
        TrainingError, match=r"\$\.training\.lora_config: adapters: include: 'layer\.0' is part of no"
    ):
        tiny_run(tmp_path, near, pretrained_ckpt_path=str(base))
    pair = [{"type": "adapters", "config": {"rank": rank}} for rank in (1, 2)]
    with pytest.raises(TrainingError, match="a run trains one adapter"):
        tiny_run(tmp_path, tiny_config(transforms=pair), pretrained_ckpt_path=str(base))
    run(tmp_path, base, demos=False)
    with pytest.raises(CheckpointError, match=r"lora_config\.rank"):
        run(tmp_path, base, settings=config(lora_config={**LORA, "rank": 4}), recover=True, max_steps=3)


def test_frozen_parts_have_no_adapter(tmp_path: Path, base: Path) -> None:
    frozen = [{"type": "freeze", "config": {"frozen": ["conditioner"]}}]
    everywhere = config(transforms=frozen, lora_config={"rank": 2})
    folder = run(tmp_path, base, settings=everywhere, demos=False)
    assert all(name.startswith("model.") for name in read_adapter(folder).layers)
    assert_equal(state(folder), merged_by_hand(base, folder))


def test_demos_and_validation_use_the_adapter_as_it_is(tmp_path: Path, base: Path) -> None:
    settings = config(demo=demo_section(), gradient_checkpointing=True)
    folder = run(tmp_path, base, settings=settings, val_dataset=CLIPS, val_every=2)
    assert (folder / "demos").is_dir()
    assert (folder / "best.safetensors").is_file()
    assert read_adapter(folder / "best.safetensors").passport is not None
    assert_equal(state(folder / "best.safetensors"), merged_by_hand(base, folder / "best.safetensors"))


def test_check_counts_and_rehearses_an_adapter(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "model.json").write_text(json.dumps(config()))
    assert main(["check", str(tmp_path / "model.json"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    made = load_config(config())
    assert made.training.use_ema is False
    assert 0 < report["parameters"]["trainable"] < report["parameters"]["backbone"] / 3
    assert report["rehearsal"]["loss"] > 0


@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
def test_every_type_trains(tmp_path: Path, base: Path, kind: str) -> None:
    folder = run(tmp_path, base, settings=config(lora_config={**LORA, "adapter_type": kind}), demos=False)
    layers = read_adapter(folder).layers
    key = "M_xs" if kind.endswith("xs") else "lora_B"
    assert any(bool(tensors[key].any()) for tensors in layers.values())
