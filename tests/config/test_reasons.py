"""What cannot be built is told in words for people, never in those of Python or torch."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stable_audio.config import ConfigError, load_config
from stable_audio.config.reporting.reasons import reason_for_people
from tests.config import examples

PYTHON = re.compile(
    r"not supported between|out of range|Error|object|NoneType|iterable|unpack|operand|callable"
)


def problems(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    return {p.path: p.message for p in caught.value.problems}


@pytest.mark.parametrize(
    ("section", "kind", "options"),
    [
        ("optimizer", "Adafactor", {"eps": "x"}),
        ("optimizer", "Adafactor", {"eps": []}),
        ("optimizer", "AdamW", {"betas": [0, 0.9]}),
        ("scheduler", "CosineAnnealingWarmRestarts", {"T_0": "10"}),
        ("scheduler", "CyclicLR", {"base_lr": "x", "max_lr": 0.1}),
        ("scheduler", "MultiStepLR", {"milestones": 5}),
        ("scheduler", "OneCycleLR", {"max_lr": 0.1, "total_steps": "x"}),
        ("scheduler", "LambdaLR", {"lr_lambda": "x"}),
    ],
)
def test_options_of_torch(section: str, kind: str, options: dict[str, Any]) -> None:
    data = examples.cond()
    data["training"]["optimizer_configs"]["diffusion"][section] = {"type": kind, "config": options}
    (message,) = problems(data).values()
    assert message.startswith(f"{kind} refuses ")
    assert not PYTHON.search(message)
    assert next(iter(options)) in message


@pytest.mark.parametrize("kind", [[], [1], {"a": 1}, 3, None])
def test_a_type_that_is_no_name(kind: Any) -> None:
    data = examples.cond()
    data["training"]["optimizer_configs"]["diffusion"]["optimizer"]["type"] = kind
    path = "$.training.optimizer_configs.diffusion.optimizer.type"
    assert problems(data)[path].endswith("expected a string")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("width 3 is not a multiple of heads 2"), "width 3 is not a multiple of heads 2"),
        (ValueError("not enough values to unpack (expected 2, got 1)"), None),
        (ValueError("math domain error"), None),
        (TypeError("'<=' not supported between instances of 'str' and 'int'"), None),
        (IndexError("tuple index out of range"), None),
        (RuntimeError("Trying to create tensor with negative dimension -1"), None),
        (ValueError(""), None),
    ],
)
def test_only_what_was_written_for_people_is_told(error: Exception, reason: str | None) -> None:
    assert reason_for_people(error) == reason


def test_a_part_that_cannot_be_built_names_the_values_to_look_at() -> None:
    data = examples.autoencoder()
    data["model"]["encoder"] = {
        "type": "oobleck",
        "config": {"in_channels": 2, "channels": 4, "c_mults": [1, 2, 3], "strides": [2, 4], "latent_dim": 8},
    }
    for message in problems(data).values():
        assert not PYTHON.search(message)
