"""Runs every golden case of a directory; `STABLE_AUDIO_GOLDEN=DIR pytest tests/golden` names another one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from stable_audio.conditioning.t5 import T5Conditioner
from tests.golden.harness import HERE, Case, all_cases, compare, load_strict
from tests.golden.kinds import KINDS
from tests.golden.kinds.cond import save_tiny_t5


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_case(case: Case) -> None:
    if case.kind not in KINDS:
        pytest.skip(f"kind '{case.kind}' is not built yet")
    problems = compare(case, KINDS[case.kind](case))
    assert not problems, "\n".join([f"{case.name} ({case.kind})", *problems])


def test_t5_in_float32_is_the_stored_encoder_projected(tmp_path: Path) -> None:
    """The case's own outputs are float16, whose tolerance hides small mistakes; float32 shows them."""
    case = Case(HERE / "cases" / "cond_t5_tiny.json")
    save_tiny_t5(case, tmp_path)
    conditioner = T5Conditioner(
        output_dim=12, t5_model_name=str(tmp_path), max_length=12, encoder_dtype="float32"
    )
    prefix = "conditioners.prompt."
    load_strict(conditioner, {k.removeprefix(prefix): v for k, v in case.weights().items()})
    found, mask = conditioner([m["prompt"] for m in case.extra["metadata"]], "cpu")
    expected = conditioner.proj_out(case.group("out")["fp32_hidden"]) * mask.unsqueeze(-1)
    torch.testing.assert_close(found, expected, atol=6e-5, rtol=0)


def test_kinds_without_a_runner(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints what is skipped, so that a green run cannot hide it; an empty directory is a failure."""
    cases = all_cases()
    assert cases, "no golden cases found"
    skipped = Counter(c.kind for c in cases if c.kind not in KINDS)
    with capsys.disabled():
        print(f"\ngolden cases: {len(cases)}; kinds without a runner: {dict(skipped) or 'none'}")
