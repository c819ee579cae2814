"""Commands that write weights refuse names and flags that they could not use before they read anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from stable_audio.cli import main

NONE = "none.safetensors"

REFUSED = {
    f"export {NONE} out.txt": "out.txt: the name must end in .safetensors or .ckpt",
    f"adapter merge {NONE} out.txt --adapter a": "out.txt: the name must end in .safetensors or .ckpt",
    f"adapter extract {NONE} {NONE} out.txt --rank 1": "out.txt: an adapter is written as .safetensors",
    f"adapter convert {NONE} out.txt": "out.txt: an adapter is written as .safetensors",
    f"adapter merge {NONE} out.ckpt": "no adapter to merge; name one or several with --adapter",
    f"adapter convert {NONE} out.ckpt --root model": "--root is the module that PEFT wraps",
    f"adapter convert {NONE} out.ckpt --model-config m.json": "--model-config is the model file of --base",
    f"adapter info {NONE} --model-config m.json": "--model-config is the model file of --base",
    "export weights.ckpt weights.ckpt": "OUTPUT weights.ckpt is of what is read, and would be replaced",
    "export run run/last.ckpt": "OUTPUT run/last.ckpt is of what is read, and would be replaced",
    "adapter merge weights.ckpt weights.ckpt --adapter a": "is of what is read",
    f"adapter extract {NONE} weights.ckpt weights.ckpt --rank 1": "is of what is read",
    "adapter convert weights.ckpt weights.ckpt": "is of what is read",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_used_is_refused_and_nothing_is_replaced(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for file in (tmp_path / "weights.ckpt", tmp_path / "run" / "last.ckpt"):
        file.write_bytes(b"weights")
    assert main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert REFUSED[line] in said
    assert (tmp_path / "weights.ckpt").read_bytes() == b"weights"


@pytest.mark.parametrize("size", ["--rank 0", "--energy nan"])
def test_a_size_of_an_adapter_is_above_zero(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["adapter", "extract", NONE, NONE, "out.ckpt", *size.split()])
    assert stop.value.code == 2
    assert f"argument {size.split()[0]}: a " in capsys.readouterr().err
