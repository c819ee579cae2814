"""Runs every golden case of a directory; `STABLE_AUDIO_GOLDEN=DIR pytest tests/golden` names another one."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.golden.harness import Case, all_cases, compare
from tests.golden.kinds import KINDS


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_case(case: Case) -> None:
    if case.kind not in KINDS:
        pytest.skip(f"kind '{case.kind}' is not built yet")
    problems = compare(case, KINDS[case.kind](case))
    assert not problems, "\n".join([f"{case.name} ({case.kind})", *problems])


def test_kinds_without_a_runner(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints what is skipped, so that a green run cannot hide it; an empty directory is a failure."""
    cases = all_cases()
    assert cases, "no golden cases found"
    skipped = Counter(c.kind for c in cases if c.kind not in KINDS)
    with capsys.disabled():
        print(f"\ngolden cases: {len(cases)}; kinds without a runner: {dict(skipped) or 'none'}")
