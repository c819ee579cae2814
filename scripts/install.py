"""Sets up the virtual environment that runs this script: torch first, then the package, never the reverse.

torch comes in builds for CPUs and for CUDA. Whatever is installed after it could replace the build that
fits this machine, so its version is a constraint for everything that follows.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"


def pip(*arguments: str) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def torch_candidates(version: str, index: str | None) -> list[list[str]]:
    """Arguments to try in order. A CPU build is a download of 0.2 GB, a CUDA build one of several GB."""
    source = ["--index-url", index] if index else []
    plain = [*source, f"torch=={version}"]
    if shutil.which("nvidia-smi") or sys.platform != "linux":
        return [plain]
    return [[*source, f"torch=={version}+cpu"], plain]


def installed_torch() -> str | None:
    code = "import torch; print(torch.__version__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def install_torch(version: str, index: str | None) -> str:
    if found := installed_torch():
        return found
    for arguments in torch_candidates(version, index):
        if pip(*arguments) and (found := installed_torch()):
            return found
        print(f"pip could not install {arguments[-1]}", file=sys.stderr)
    sys.exit(
        f"torch {version} could not be installed for Python {sys.version.split()[0]}: set TORCH_VERSION to a "
        "version that has a build for it, or TORCH_INDEX_URL to an index that has one (see pytorch.org)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", default="train", help="comma-separated extras of the package")
    options = parser.parse_args()
    version = os.environ.get("TORCH_VERSION") or TORCH
    found = install_torch(version, os.environ.get("TORCH_INDEX_URL"))
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(f"torch=={found}\n")
        if not pip("--constraint", str(constraints), "--editable", f".[{options.extras}]"):
            sys.exit("installing the package failed; the lines above say which dependency")
    print(f"installed with torch {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
