"""Services that do not start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from stable_audio.cli import main


def _fails(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    command = ["serve", str(folder.parent / "none.safetensors"), "--out", str(folder), "--device", "cpu"]
    assert main([*command, *flags]) == 2
    return capsys.readouterr().err


def test_a_service_that_does_not_start_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "served"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = ("--port", str(taken.getsockname()[1]))
        assert "cannot listen there" in _fails(folder, capsys, *port)
        assert not folder.exists()
        (folder / "results").mkdir(parents=True)
        assert "cannot listen there" in _fails(folder, capsys, *port)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["results"]


@pytest.mark.slow
def test_nor_does_one_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _fails(tmp_path / "served", capsys, "--port", "0")
    assert "no model can be loaded" in told
    assert "none.safetensors" in told
    assert not (tmp_path / "served").exists()
