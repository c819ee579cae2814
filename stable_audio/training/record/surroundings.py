"""What a run was started on and with: the machine, and the state of the code under git."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stable_audio.data.cores import bound_cores

MOST_CHANGED = 50
"""Number of changed files that are named."""


def machine() -> dict[str, Any]:
    """Processor, memory and GPUs of this machine, and the libraries that drive them."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    libraries = {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }
    return {
        "processor": _line_of("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": bound_cores(),
        "memory": _line_of("/proc/meminfo", "MemTotal"),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        **({name: version for name, version in libraries.items() if version is not None} if gpus else {}),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, branch and changed files of the repository that `folder` is in; None outside of one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = (_git(folder, "status", "--porcelain", "--untracked-files=no") or "").splitlines()
    return {
        "repository": _git(folder, "rev-parse", "--show-toplevel"),
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "changed": [line[3:] for line in changed[:MOST_CHANGED]],
        "number_of_changed": len(changed),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    environment: Mapping[str, str] = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.rstrip("\n")


def _line_of(path: str, name: str) -> str | None:
    """The value behind `name:` in a file of the Linux kernel."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(name):
                    return line.partition(":")[2].strip()
    except OSError:
        return None
    return None
