"""What saves memory in a run: same weights as without it, exact resume, refusals."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import ConfigError, load_config
from stable_audio.factory import create_model_from_config
from stable_audio.optim import OPTIMIZERS, build_optimizer, low_bit
from stable_audio.optim.low_bit import LowBitAdam
from stable_audio.training.build import build_training
from stable_audio.training.devices.levers import check_levers
from stable_audio.training.devices.resting import pretransform_rests
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation import ema as averaging
from stable_audio.training.optimisation.gradient_release import GradientRelease
from stable_audio.training.options import RunOptions
from tests.training.building import demo_section, latent_config, tiny_config, tiny_run
from tests.training.saving.test_resume import SCHEDULED, assert_same_checkpoint


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if "speed" not in k} for row in csv.DictReader(file)]


def _same_run(folder: Path, plain: dict[str, Any], levered: dict[str, Any], **options: Any) -> None:
    """A run with a lever that is stopped and continued ends as one that is neither."""
    tiny_run(folder, tiny_config(**plain), name="plain", max_steps=6, **options).start()
    tiny_run(folder, tiny_config(**levered), name="levered", max_steps=3, **options).start()
    tiny_run(folder, tiny_config(**levered), name="levered", max_steps=6, recover=True, **options).start()
    assert_same_checkpoint(folder / "plain" / "last.ckpt", folder / "levered" / "last.ckpt")
    assert _rows(folder / "plain") == _rows(folder / "levered")


# The average on the host.


def test_an_average_on_the_host_trains_and_resumes_as_one_beside_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "_is_elsewhere", lambda tensors, device: device == "cpu")
    demos = {"demo": demo_section(demo_every=3)}
    _same_run(tmp_path, demos, {**demos, "ema": {"device": "cpu"}}, accum_batches=2)
    for step in (3, 6):
        here, there = (
            (tmp_path / name / "demos" / f"step_{step:08d}").glob("*.wav") for name in ("plain", "levered")
        )
        assert [p.read_bytes() for p in sorted(here)] == [p.read_bytes() for p in sorted(there)] != []


def test_the_average_is_held_before_the_weights_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    run = tiny_run(tmp_path, tiny_config(ema={"device": "cpu"}), max_steps=2, accum_batches=2)
    monkeypatch.setattr(averaging.EMA, "hold", lambda self: held.append(self.step))
    run.start()
    assert held == [0, 1]


# Optimizers of fewer bytes.


def _optimizer(kind: str, **options: Any) -> dict[str, Any]:
    return {"optimizer_configs": {"diffusion": {"optimizer": {"type": kind, "config": options}}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "options"),
    [
        ({**_optimizer("AdamW8bit", lr=1e-3), "gradient_clip_val": 0.5}, {"accum_batches": 2}),
        ({**_optimizer("AdamWBF16", lr=1e-3), "gradient_release": True}, {"precision": "bf16-true"}),
        (_optimizer("Adafactor", lr=1e-2), {}),
        (_optimizer("Muon", lr=1e-3), {}),
    ],
    ids=["8 bits", "bfloat16, released", "factored", "matrices apart"],
)
def test_optimizers_of_fewer_bytes_resume(
    tmp_path: Path, training: dict[str, Any], options: dict[str, Any]
) -> None:
    if "AdamW" in str(training):
        pytest.importorskip("torchao.optim")
    _same_run(tmp_path, training, training, **options)


@pytest.mark.slow
def test_a_run_with_bfloat16_weights_releases_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("torchao.optim")
    plain = {**_optimizer("AdamWBF16", lr=1e-3), "demo": demo_section(demo_every=6)}
    _same_run(tmp_path, plain, {**plain, "gradient_release": True}, precision="bf16-true")
    state = load_torch_file(tmp_path / "plain" / "last.ckpt")
    assert state["optimizer_states"][0]["state"][0]["exp_avg"].dtype is torch.bfloat16
    assert list((tmp_path / "plain" / "demos").rglob("*.wav"))


def test_optimizers_of_few_bits_need_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    section = load_config(tiny_config(**_optimizer("AdamW8bit", lr=1e-3))).training
    for package in ("torchao", "torchao.optim"):
        monkeypatch.setitem(sys.modules, package, None)
    low_bit.computed_by_torchao.cache_clear()
    with pytest.raises(ImportError, match=r"needs torchao.*stable-audio\[quantize\]"):
        check_levers(section, RunOptions(), processes=1)
    load_config(tiny_config(**_optimizer("AdamW8bit", lr=1e-3)))  # which generation needs


# Hidden matrices apart.


def test_muon_steps_on_hidden_matrices_and_keeps_rates_of_parts(tmp_path: Path) -> None:
    part = "backbone.transformer.layers.1"
    training = {**_optimizer("Muon", lr=1e-3, weight_decay=0.0), "use_ema": False}
    moved = {}
    for name, factor in (("plain", 1.0), ("slower", 0.5)):
        config = tiny_config(**training, trainable={"lr_multipliers": {part: factor}})
        config["model"]["diffusion"]["config"]["zero_init_branch_outputs"] = False
        run = tiny_run(tmp_path, config, name=name, max_steps=1)
        before = {k: v.clone() for k, v in run.module.model.state_dict().items()}
        assert run.start() == 0
        moved[name] = {k: v - before[k] for k, v in run.module.model.state_dict().items()}
        groups = load_torch_file(tmp_path / name / "last.ckpt")["optimizer_states"][0]["param_groups"]
        assert sorted({group["matrices"] for group in groups}) == [0, 1, 2, 3]
    for key in (f"{part}.self_attn.to_qkv.weight", f"{part}.ff.ff.2.bias"):
        torch.testing.assert_close(moved["slower"][key], 0.5 * moved["plain"][key], rtol=1e-3, atol=1e-7)
        assert moved["plain"][key].abs().max() > 0
    update = moved["plain"][f"{part}.self_attn.to_qkv.weight"].chunk(3)[2]
    values = torch.linalg.svdvals(update) / (1e-3 * 0.2 * 32**0.5)
    assert (
        0.6 < float(values.median()) < 1.25
    )  # not so if queries and keys, whose gradients differ, were along


def test_muon_is_refused_where_it_cannot_work(tmp_path: Path) -> None:
    training = _optimizer("Muon", lr=1e-3)
    only = {"trainable": {"include": ["conditioner"]}}
    with pytest.raises(TrainingError, match=r"'Muon' steps on matrices.*use AdamW"):
        tiny_run(tmp_path, tiny_config(**training, **only), max_steps=1).start()


# The autoencoder of stored latents.


def test_an_autoencoder_that_only_demos_need_stays_in_host_memory() -> None:
    for pre_encoded in (True, False):
        config = load_config(
            latent_config() | {"training": {"learning_rate": 1e-3, "pre_encoded": pre_encoded}}
        )
        module = build_training(config, create_model_from_config(config))
        order = list(module.state_dict())
        module.to("meta")
        places = {k.split(".")[1]: p.device.type for k, p in module.named_parameters()}
        assert places["backbone"] == places["conditioner"] == "meta"
        assert places["pretransform"] == ("cpu" if pre_encoded else "meta")
        assert list(module.state_dict()) == order
        module.ema = None
        module.begin_fit()
        assert module.model.computes_on == (torch.device("meta") if pre_encoded else None)


def test_a_pretransform_with_other_uses_is_moved_along() -> None:
    config = load_config(latent_config())
    model = create_model_from_config(config)
    assert pretransform_rests(model, decodes_alone=True, processes=1)
    assert not pretransform_rests(model, decodes_alone=True, processes=2)
    model.conditioner.conditioners["seconds_start"].__dict__["pretransform"] = model.pretransform
    assert not pretransform_rests(model, decodes_alone=True, processes=1)
    assert not pretransform_rests(
        create_model_from_config(load_config(tiny_config())), decodes_alone=False, processes=1
    )


# Released gradients.


@pytest.mark.parametrize(
    "training",
    [
        {},
        SCHEDULED,
        {"gradient_checkpointing": 2},
        {"trainable": {"lr_multipliers": {"backbone": 0.5, "*.bias": 4.0}}, **SCHEDULED},
    ],
    ids=["", "schedule", "recomputed", "rates of parts"],
)
def test_released_gradients_train_and_resume_as_others(tmp_path: Path, training: dict[str, Any]) -> None:
    _same_run(tmp_path, training, {**training, "gradient_release": True})


DENSE = sorted(set(OPTIMIZERS) - {"LBFGS", "SparseAdam", "Muon"})


@pytest.mark.parametrize("name", DENSE)
def test_a_released_step_has_the_bits_of_an_ordinary_one(name: str) -> None:
    if issubclass(OPTIMIZERS[name], LowBitAdam):
        pytest.importorskip("torchao.optim")
    results = []
    for released in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        groups = [{"params": [*net[0].parameters()], "lr": 0.01}, {"params": [*net[2].parameters()]}]
        optimizer = build_optimizer({"type": name, "config": {"lr": 0.03}}, groups)
        release = GradientRelease(optimizer) if released else None
        norms = []
        for _ in range(4):
            loss = net(torch.randn(6, 5)).square().sum()
            if release is not None:
                release.begin(loss)
            loss.backward()
            if release is not None:
                norms.append(release.finish())
                assert all(p.grad is None for p in net.parameters())
            else:
                norms.append(nn.utils.get_total_norm([p.grad for p in net.parameters()]))
            optimizer.step()
            optimizer.zero_grad()
        results.append([*[p.detach() for p in net.parameters()], *norms])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_released_gradients_are_never_there_together() -> None:
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])
    optimizer = build_optimizer({"type": "AdamW", "config": {}}, net.parameters())
    there: list[int] = []

    def count(_: Any) -> None:
        there.append(sum(p.grad is not None for p in net.parameters()))

    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(count)
    loss = net(torch.randn(2, 4)).sum()
    GradientRelease(optimizer).begin(loss)
    loss.backward()
    assert len(there) == 10
    assert max(there) <= 2  # a layer's weight and bias


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip_val": 1.0}, "cannot be clipped to 1; set gradient_clip_val to 0"),
        ({"accum_batches": 3}, "gradients of 3 batches cannot be accumulated"),
        ({"precision": "16-mixed"}, "use --precision bf16-mixed or 32"),
        ({"strategy": "fsdp"}, "train with one process"),
    ],
)
def test_settings_that_need_all_gradients_are_refused(options: dict[str, Any], message: str) -> None:
    section = load_config(tiny_config(gradient_release=True)).training
    with pytest.raises(TrainingError, match=rf"\$\.training\.gradient_release.*{message}"):
        check_levers(section, RunOptions(**options), processes=1)
    check_levers(section, RunOptions(), processes=1)
    with pytest.raises(TrainingError, match="train with one process"):
        check_levers(section, RunOptions(), processes=2)


def test_a_run_refuses_levers_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be accumulated"):
        tiny_run(tmp_path, tiny_config(gradient_release=True), accum_batches=2)
    with pytest.raises(ConfigError, match=r"gradient_release: weights step before the norm"):
        load_config(tiny_config(gradient_release=True, gradient_clip_val=0.5))


def test_optimizers_of_whole_gradients_are_refused() -> None:
    optimizer = torch.optim.LBFGS(nn.Linear(1, 1).parameters())
    with pytest.raises(TrainingError, match="LBFGS needs all gradients"):
        GradientRelease(optimizer)


@pytest.mark.parametrize("kind", ["Adafactor", "Rprop"])
def test_optimizers_that_need_whole_weights_refuse_parts(kind: str) -> None:
    section = load_config(tiny_config(**_optimizer(kind, lr=1e-3))).training
    reason = rf"optimizer_configs\.diffusion\.optimizer\.type: {kind} steps with whole weights only"
    with pytest.raises(TrainingError, match=reason):
        check_levers(section, RunOptions(strategy="hsdp"), processes=2)
    check_levers(section, RunOptions(strategy="fsdp"), processes=1)
    check_levers(section, RunOptions(strategy="ddp"), processes=2)
    other = load_config(tiny_config(**_optimizer("Adagrad", lr=1e-3))).training
    check_levers(other, RunOptions(strategy="fsdp"), processes=2)
