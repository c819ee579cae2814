"""Back into SLURM's queue: the job that this process belongs to starts again, and continues its run."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess

from stable_audio.training.errors import TrainingError

log = logging.getLogger(__name__)


def refuse_no_job() -> None:
    """Find out at the start what `requeue` would find out at the end.

    Raises:
        TrainingError: there is no SLURM job, or no `scontrol`.
    """
    if _job() is None:
        raise TrainingError(
            "--requeue puts a SLURM job back into the queue, but SLURM_JOB_ID is not set; leave --requeue out"
        )
    if shutil.which("scontrol") is None:
        raise TrainingError("--requeue needs SLURM's `scontrol` in the PATH, where it is not; leave it out")


def requeue() -> bool:
    """Ask SLURM to start this job again; what goes wrong is logged."""
    job = _job()
    try:
        done = subprocess.run(
            ["scontrol", "requeue", str(job)], capture_output=True, text=True, timeout=60, check=False
        )
        failure = done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure is not None:
        log.error("job %s was not put back into the queue (%s); the checkpoint is written", job, failure)
        return False
    log.info("job %s is back in the queue", job)
    return True


def _job() -> str | None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
