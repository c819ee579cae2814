"""Runs the tests with other numbers of threads and other instruction sets, and lists what fails where.

Sums are added in another order then, which finds out a tolerance that the error just meets. Every comparison
near its tolerance is listed as well, whether it passed or not: machines that are not here differ more.

    python scripts/sweep.py                          # everything, under every condition
    python scripts/sweep.py --only 1-thread -- tests/nn
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# PyTorch's own kernels and oneDNN's choose by these variables; what a machine lacks is left out.
CONDITIONS: dict[str, dict[str, str]] = {
    "1-thread": {"OMP_NUM_THREADS": "1"},
    "2-threads": {"OMP_NUM_THREADS": "2"},
    "4-threads": {"OMP_NUM_THREADS": "4"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
NEEDED = {"avx2": ("AVX2", "AVX512"), "avx512": ("AVX512",)}
"""Condition -> what `torch.backends.cpu.get_cpu_capability` says where it can be tried."""

FLAGS = ["-q", "-n", "auto", "--dist", "loadfile", "-o", "enable_assertion_pass_hook=true"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=CONDITIONS, action="append", help="this condition; may be repeated")
    parser.add_argument(
        "--above", type=float, default=1 / 3, help="share of a tolerance that is near its edge"
    )
    parser.add_argument("pytest", nargs="*", help="tests and options of pytest, after --")
    args = parser.parse_args()
    capability = _capability()
    entries: list[dict[str, Any]] = []
    failed: dict[str, list[str]] = {}
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only or CONDITIONS:
            if capability not in NEEDED.get(name, (capability,)):
                print(f"\n== {name}: left out, this machine has {capability}", flush=True)
                continue
            log = Path(folder, f"{name}.jsonl")
            log.touch()
            status = _run(name, log, Path(folder), args.pytest)
            found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            for test in sorted({e["test"] for e in found if e.get("failed")}):
                failed.setdefault(test, []).append(name)
            if status not in (0, 1):
                broken.append(f"{name} (pytest ended with {status})")
            entries += found
            _report(entries, failed, broken, above=args.above)
    return 1 if failed or broken else 0


def _capability() -> str:
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    plain = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    return subprocess.check_output([sys.executable, "-c", code], text=True, env=plain).strip()


def _run(name: str, log: Path, folder: Path, chosen: list[str]) -> int:
    condition = {"OMP_NUM_THREADS": "1", **CONDITIONS[name]}
    print(f"\n== {name}: {' '.join(f'{k}={v}' for k, v in condition.items())}", flush=True)
    # Threads of several test processes share the cores: they must not wait by spinning. Asserts are compiled
    # with a hook, so these files are not those of other runs.
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }
    command = [sys.executable, "-m", "pytest", *FLAGS, "-p", "tests.tolerances", "--tolerance-log", str(log)]
    # The log's path would count among the tests' when pytest looks for its settings.
    command += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    began = time.monotonic()
    status = subprocess.run(
        [*command, *chosen], cwd=ROOT, env={**environment, **condition}, check=False
    ).returncode
    print(f"== {name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return status


def _report(
    entries: list[dict[str, Any]], failed: Mapping[str, list[str]], broken: list[str], *, above: float
) -> None:
    from tests.tolerances import nearest

    near = nearest(entries, above=above)
    print(f"\n{len(near)} comparisons within {above:.0%} of their tolerance (error / tolerance):")
    for ratio, place, test in near:
        print(f"  {ratio:8.3g}  {place}  {test}")
    print(f"\n{len(failed)} tests failed" + (":" if failed else ""))
    for test, conditions in failed.items():
        print(f"  {test}: {', '.join(conditions)}")
    for what in broken:
        print(f"  not finished: {what}")


if __name__ == "__main__":
    sys.exit(main())
