"""Ranges that annotations state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Lt
from pydantic import ValidationError

from stable_audio.conditioning.inpainting import MaskOptions
from stable_audio.config.schemas.leaf import leaf_model
from stable_audio.optim.averaging import AveragingRule
from stable_audio.ranges import Positive, Probability, check_ranges


@dataclass(frozen=True)
class Settings:
    count: Positive = 1
    share: Probability = 0.5
    decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    name: str = "-1"


@pytest.mark.parametrize("values", [{}, {"count": 7, "share": 1, "decay": 0.999}, {"share": 0}])
def test_what_is_inside_passes(values: dict[str, Any]) -> None:
    check_ranges(Settings(**values))
    leaf_model(Settings).model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be above 0, found 0"),
        ({"share": 1.5}, "share must be at least 0 and at most 1, found 1.5"),
        ({"share": -0.1}, "share must be at least 0 and at most 1, found -0.1"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1, found 1.0"),
        ({"decay": float("nan")}, "decay must be at least 0 and below 1, found nan"),
    ],
)
def test_python_and_files_refuse_what_is_outside(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_ranges(Settings(**values))
    with pytest.raises(ValidationError):
        leaf_model(Settings).model_validate(values)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (AveragingRule, {"power": 0.0}, "power must be above 0, found 0.0"),
        (AveragingRule, {"inv_gamma": -1.0}, "inv_gamma must be above 0, found -1.0"),
        (AveragingRule, {"update_after_step": -1}, "update_after_step must be at least 0, found -1"),
        (MaskOptions, {"max_mask_segments": 0}, "max_mask_segments must be above 0, found 0"),
    ],
)
def test_options_refuse_what_their_schema_refuses(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        kind(**values)
    with pytest.raises(ValidationError):
        leaf_model(kind).model_validate(values)
