"""Kind `train_losses`: spectral and time losses, with gradients."""

from __future__ import annotations

from typing import Any

from stable_audio.pretransforms import losses
from stable_audio.pretransforms.losses.filters import a_weighting_taps
from stable_audio.pretransforms.losses.terms import Pair, Term, l1, mse
from tests.golden.harness import Case

# Weights that the reference's wrappers were given.
SPECTRAL, L1, MSE, DECAY = 0.7, 2.0, 0.5, 0.9


def run(case: Case) -> dict[str, Any]:
    a, b = case.inputs["a"], case.inputs["b"]
    out: dict[str, Any] = {}
    for name, (cls, kwargs) in case.calls.items():
        loss = getattr(losses, cls)(**kwargs)
        fake = b.clone().requires_grad_()
        value = loss(a, fake)
        value.backward()
        assert fake.grad is not None
        out[f"{cls}.{name}"] = value
        out[f"{cls}.{name}.grad_b"] = fake.grad[..., 1000:1040]
        out[f"{cls}.{name}.grad_b_norm"] = fake.grad.norm()
        out[f"Auraloss.{name}"] = Term(name, Pair(loss, "a", "b"), SPECTRAL)({"a": a, "b": b})
    values = {"a": a, "b": b}
    out["L1Loss"] = Term("l1", Pair(l1, "a", "b"), L1)(values)
    out["MSELoss"] = Term("mse", Pair(mse, "a", "b"), MSE)(values)
    if "mask" in case.inputs:
        out["MSELoss.masked"] = mse(a, b, case.inputs["mask"])
    decayed = Term("mse", Pair(mse, "a", "b"), 1.0, DECAY)
    out["MSELoss.decay3"] = [decayed(values).item() for _ in range(3)]
    out["FIR.aw"] = a_weighting_taps(case.extra["sample_rate"])
    return out
