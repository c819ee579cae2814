"""The average of weights: its rule, low-precision weights, parts, swapping, storing."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from stable_audio.training.optimisation import ema as averaging
from stable_audio.training.optimisation.ema import EMA
from stable_audio.training.optimisation.staging import HostStaging, Work


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 2)
        self.conditioner = nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def _fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_decay_follows_the_published_rule() -> None:
    ema = EMA(nn.Linear(1, 1))
    decays = []
    for _ in range(6):
        ema.update()
        decays.append(ema.decay())
    assert decays[:2] == [0.0, 0.0]
    assert decays[2:] == [pytest.approx(1 - (1 + n) ** -0.75) for n in (1, 2, 3, 4)]
    ema.step = 10**9
    assert ema.decay() == 0.9999


def test_average_is_the_closed_form() -> None:
    module = nn.Linear(1, 1)
    ema = EMA(module)
    expected = None
    for k in range(1, 8):
        _fill(module, float(k * k))
        ema.update()
        # The third update still copies: the average starts there, as in the reference.
        weight = 1 - ema.decay() if k > 3 else 1.0
        expected = float(k * k) if expected is None else expected + weight * (k * k - expected)
    assert ema.average["weight"].item() == pytest.approx(expected)


def test_bfloat16_weights_are_averaged_in_float32() -> None:
    module = nn.Linear(1, 1).to(torch.bfloat16)
    _fill(module, 1.0)
    ema = EMA(module)
    ema.step, ema.initialised = 10**6, True
    _fill(module, 2.0)
    for _ in range(50):
        ema.update()
    # In bfloat16, 1 + 1e-4 rounds back to 1 and the average would stand still.
    assert ema.average["weight"].dtype is torch.float32
    assert ema.average["weight"].item() == pytest.approx(2 - 0.9999**50, rel=1e-5)


def test_only_the_named_parts_are_averaged() -> None:
    ema = EMA(_Small(), parts=["backbone"])
    assert set(ema.average) == {"backbone.weight", "backbone.bias"}
    assert set(EMA(_Small()).average) >= {"conditioner.weight", "count"}
    assert "scratch" not in EMA(_Small()).average


def test_integer_buffers_are_copied() -> None:
    module = _Small()
    ema = EMA(module)
    for k in range(5):
        module.count.fill_(k)
        ema.update()
    assert ema.average["count"].item() == 4


def test_swapping_restores_the_weights_even_after_an_error() -> None:
    module = nn.Linear(2, 2)
    _fill(module, 1.0)
    ema = EMA(module)
    _fill(module, 5.0)

    def fail() -> None:
        with ema.swapped() as averaged:
            assert averaged.weight.eq(1).all()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert module.weight.eq(5).all()
    assert ema.average["weight"].eq(1).all()


def test_swapping_makes_no_second_set_of_weights() -> None:
    module = _Small()
    ema = EMA(module)
    _fill(module, 5.0)
    module.count.fill_(3)
    own = {k: p.data_ptr() for k, p in module.named_parameters()}
    averages = {k: ema.average[k].data_ptr() for k in own}
    with ema.swapped():
        assert {k: p.data_ptr() for k, p in module.named_parameters()} == averages
        assert module.count.item() == 0
        module.count.fill_(9)  # what a forward pass writes stays out of the average
    assert {k: p.data_ptr() for k, p in module.named_parameters()} == own
    assert module.count.item() == 3
    assert ema.average["count"].item() == 0
    ema.step, ema.initialised = 10, True
    ema.update()
    assert module.backbone.weight.eq(5).all()


def test_swapping_low_precision_weights_keeps_their_type() -> None:
    module = nn.Linear(2, 2).to(torch.bfloat16)
    ema = EMA(module)
    ema.average["weight"].fill_(0.1)
    own = module.weight.detach().clone()
    with ema.swapped():
        assert torch.equal(module.weight, torch.full((2, 2), 0.1).to(torch.bfloat16))
    assert torch.equal(module.weight, own)
    assert ema.average["weight"].dtype is torch.float32


def test_an_update_walks_no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _Small()
    ema = EMA(module)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a walk over all modules at each step")

    for name in ("named_modules", "named_parameters", "named_buffers", "_named_members", "state_dict"):
        monkeypatch.setattr(nn.Module, name, refuse)
    ema.update()
    with ema.swapped():
        pass


def test_a_moved_module_is_still_followed() -> None:
    module = _Small()
    ema = EMA(module)
    module.to(torch.float64)  # replaces the buffers
    _fill(module, 7.0)
    module.count = torch.tensor(4)
    ema.update()
    assert ema.average["backbone.weight"].eq(7).all()
    assert ema.average["count"].item() == 4


def test_weights_with_two_names_are_averaged_once() -> None:
    module = _Small()
    module.conditioner.weight = nn.Parameter(torch.zeros(2, 2))
    module.tied = module.conditioner  # type: ignore[assignment]
    ema = EMA(module)
    assert "tied.weight" not in ema.average
    ema.average["conditioner.weight"].fill_(1.0)
    with ema.swapped():
        assert module.conditioner.weight.eq(1).all()
    assert module.conditioner.weight.eq(0).all()


def test_the_decay_has_a_least_value() -> None:
    module = nn.Linear(1, 1)
    ema = EMA(module, min_value=0.7, beta=0.8, inv_gamma=2.0, power=0.5)
    decays = []
    for _ in range(60):
        ema.update()
        decays.append(ema.decay())
    rule = [1 - (1 + n / 2) ** -0.5 for n in range(1, 59)]
    assert decays == [0.0, 0.0, *[pytest.approx(min(max(d, 0.7), 0.8)) for d in rule]]
    assert (decays[2], decays[-1]) == (0.7, 0.8)


def test_state_is_restored_exactly() -> None:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    ema = EMA(module)
    for k in range(4):
        _fill(module, float(k))
        ema.update()
    other = EMA(nn.Linear(2, 2))
    other.load_state_dict(ema.state_dict())
    assert other.decay() == ema.decay()
    assert all(torch.equal(other.average[k], v) for k, v in ema.average.items())


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(ValueError, match="other weights"):
        EMA(nn.Linear(2, 2)).load_state_dict(EMA(_Small()).state_dict())


def _averaged_through_the_host(monkeypatch: pytest.MonkeyPatch, module: nn.Module) -> EMA:
    """An average that is made as for weights on a GPU: from copies, in a thread."""
    monkeypatch.setattr(averaging, "_is_elsewhere", lambda tensors, device: True)
    return EMA(module, device="cpu")


def test_an_average_on_the_host_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = _Small()
    module.half = nn.Linear(2, 2).to(torch.bfloat16)
    beside, host = EMA(module), _averaged_through_the_host(monkeypatch, module)
    for k in range(7):
        for parameter in module.parameters():
            parameter.data.copy_(torch.randn_like(parameter))
        module.count.fill_(k)
        beside.update()
        host.update()
        host.hold()
        for parameter in module.parameters():  # the next step may write at once
            parameter.data.fill_(-1.0)
    assert host.average["half.weight"].dtype is torch.float32
    assert all(torch.equal(host.average[k], v) for k, v in beside.average.items())
    assert host.state_dict()["step"] == 7


def test_a_step_does_not_wait_for_the_average_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    module, may_go = nn.Linear(1, 1), threading.Event()
    ema, blended = _averaged_through_the_host(monkeypatch, module), EMA._blend_with

    def wait_and_blend(*args: object) -> None:
        assert may_go.wait(60)
        blended(*args)

    monkeypatch.setattr(EMA, "_blend_with", wait_and_blend)
    _fill(module, 3.0)
    ema.update()  # would never return if it waited
    _fill(module, 5.0)
    may_go.set()
    assert ema.average["weight"].item() == 3.0


class _Lagging(HostStaging):
    """Copies when the next optimizer step asks for them, as a GPU may."""

    def submit(self, tensors: Mapping[str, Tensor], work: Work) -> None:
        self.late = lambda: work({key: tensor.clone() for key, tensor in tensors.items()})

    def hold(self) -> None:
        self.late()


def test_what_a_forward_pass_changes_is_averaged_as_it_was_after_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = _Small()
    module.scale = nn.Parameter(torch.ones(1), requires_grad=False)  # beside trained weights: a running one
    module.other = nn.Parameter(torch.ones(1))
    ema = _averaged_through_the_host(monkeypatch, module)
    ema._staging = _Lagging()
    module.count.fill_(3)
    _fill(module, 2.0)
    ema.update()
    with torch.no_grad():  # the next forward pass, while the copies are being made
        module.count.fill_(9)
        module.scale.fill_(9.0)
    ema.hold()
    assert {k: v.max().item() for k, v in ema.average.items()} == {
        **dict.fromkeys(["scale", "other", "backbone.weight", "backbone.bias"], 2.0),
        **dict.fromkeys(["conditioner.weight", "conditioner.bias"], 2.0),
        "count": 3,
    }


def test_an_error_of_the_average_on_the_host_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    ema = _averaged_through_the_host(monkeypatch, nn.Linear(1, 1))

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(EMA, "_blend_with", fail)
    ema.update()
    with pytest.raises(RuntimeError, match="no memory"):
        ema.state_dict()


def test_on_the_host_itself_no_copies_are_made() -> None:
    module = nn.Linear(1, 1)
    ema = EMA(module, device="cpu")
    ema.update()
    assert ema._staging._copies == {}


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="beta"):
        EMA(nn.Linear(1, 1), beta=1.0)
    with pytest.raises(ValueError, match="min_value must be from 0 to beta"):
        EMA(nn.Linear(1, 1), beta=0.5, min_value=0.6)
    with pytest.raises(ValueError, match="device must be 'cpu' or None"):
        EMA(nn.Linear(1, 1), device="disk")
    with pytest.raises(ValueError, match="update_every"):
        EMA(nn.Linear(1, 1), update_every=0)
