"""`distribution_shift_options`: keywords beside a type that has a default."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio.config import load_config
from stable_audio.config.reporting.problems import ConfigError
from stable_audio.diffusion.shift import DistributionShift, FluxShift, LogSNRShift, NoShift
from stable_audio.factory.backbones import build_shift
from tests.config.examples import cond, uncond


def _loaded(options: Any) -> Any:
    config = cond()
    config["model"]["diffusion"]["distribution_shift_options"] = options
    return load_config(config).model.diffusion


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"min_length": 8, "max_length": 64}, DistributionShift),
        ({"type": "full", "use_sine": True}, DistributionShift),
        ({"type": "flux", "alpha_max": 4.0}, FluxShift),
        ({"type": "logsnr", "rate": 0}, LogSNRShift),
        ({"type": "none"}, NoShift),
    ],
)
def test_every_type_is_built_with_its_keywords(options: dict[str, Any], kind: type) -> None:
    shift = build_shift(_loaded(options))
    assert type(shift) is kind
    assert {k: getattr(shift, k) for k in options if k != "type"} == {
        k: v for k, v in options.items() if k != "type"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "fluxx"}, r"distribution_shift_options\.type: found .fluxx.; .*did you mean 'flux'"),
        (
            {"type": 3},
            r"distribution_shift_options\.type: found 3; allowed: 'full', 'flux', 'logsnr', 'none'",
        ),
        ({"type": []}, r"distribution_shift_options\.type: found \[\]; allowed"),
        ({"type": "logsnr", "alpha_max": 2.0}, r"distribution_shift_options\.alpha_max: unknown key"),
        ({"type": "flux", "alpha_max": 0}, r"distribution_shift_options\.alpha_max: found 0"),
        ({"type": "none", "rate": 1}, r"distribution_shift_options\.rate: unknown key"),
        (
            {"min_lenght": 8},
            r"distribution_shift_options\.min_lenght: unknown key; did you mean 'min_length'",
        ),
        (7, r"distribution_shift_options: found 7"),
        (
            {"min_length": 64, "max_length": 8},
            r"distribution_shift_options: found min_length 64 and max_length 8; give 0 < min_length",
        ),
        ({"type": "logsnr", "anchor_length": 0}, r"distribution_shift_options: anchor_length must be at"),
    ],
)
def test_mistakes_are_named(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _loaded(options)


def test_mistakes_of_both_shifts_are_named_at_once() -> None:
    config = uncond()
    for key in ("distribution_shift_options", "sampling_distribution_shift_options"):
        config["model"][key] = {"type": "flux", "min_length": 0}
    with pytest.raises(ConfigError) as refused:
        load_config(config)
    assert [p.path for p in refused.value.problems] == [
        "$.model.distribution_shift_options",
        "$.model.sampling_distribution_shift_options",
    ]
