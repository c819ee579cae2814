"""The table of memory per shipped config is the one that the script writes."""

from __future__ import annotations

import pytest

from benchmarks.memory import HEADER, PAGE, row, size
from stable_audio.shipped import shipped

TABLE = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
ROWS = {line.split("`")[1]: line for line in TABLE if "/" in line.split("`")[1]}


def test_every_file_has_a_row() -> None:
    assert list(ROWS) == list(shipped("model"))
    assert HEADER in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "quickstart/quickstart",
        "quickstart/autoencoder",
        pytest.param("stable_audio/stable_audio_open_small", marks=pytest.mark.slow),
        pytest.param("unet/ddpm_mono", marks=pytest.mark.slow),
    ],
)
def test_rows_are_up_to_date(name: str) -> None:
    """Those that are quick to plan; `python benchmarks/memory.py --write` renews all."""
    assert row(name, shipped("model")[name]) == ROWS[name]


def test_all_rows_have_the_right_totals() -> None:
    """A file for inference holds less than one to continue from, which holds less than training takes."""
    for line in ROWS.values():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert in_mib(cells[6]) < in_mib(cells[5]) < in_mib(cells[2]) <= in_mib(cells[3])


def in_mib(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"MiB": 1, "GiB": 1024}[unit]


def test_sizes_are_readable() -> None:
    assert size(3 * 2**20) == "3 MiB"
    assert size(2**30 + 2**29) == "1.5 GiB"
