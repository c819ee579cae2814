"""Put the SLURM job of this process back into the queue, so that it starts again and continues its run."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess

from stable_audio.training.errors import TrainingError

log = logging.getLogger(__name__)


def refuse_no_job() -> None:
    """Raise at the start of a run the errors that `requeue` would have at its end.

    Raises:
        TrainingError: there is no SLURM job, or no `scontrol`.
    """
    if _job() is None:
        raise TrainingError(
            "--requeue puts a SLURM job back into the queue, but SLURM_JOB_ID is not set; leave --requeue out"
        )
    if shutil.which("scontrol") is None:
        raise TrainingError(
            "--requeue needs SLURM's `scontrol`, which is not in the PATH; in a container, bind SLURM's "
            "commands and configuration of the host into it, else leave --requeue out"
        )


def requeue() -> bool:
    """Ask SLURM to start this job again; returns whether it will. Failures are logged."""
    job = _job()
    try:
        result = subprocess.run(
            ["scontrol", "requeue", str(job)], capture_output=True, text=True, timeout=60, check=False
        )
        failure = result.stderr.strip() or f"exit status {result.returncode}" if result.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure is not None:
        log.error(
            "job %s was not put back into the queue (%s); the checkpoint is written: `scontrol requeue %s` "
            "on a machine of the cluster starts it again, as does the same command in a new job",
            job,
            failure,
            job,
        )
        return False
    log.info("job %s is back in the queue", job)
    return True


def requeue_if_taken_away() -> None:
    """Ask SLURM to start this job again where `taken_away` says that it has not been cancelled."""
    if taken_away():
        requeue()


def taken_away() -> bool:
    """Whether SLURM takes its machines away from this job, for another one or because its time is up, and has
    not been told to cancel it."""
    try:
        result = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", str(_job())],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    time = re.search(r"\bPreemptTime=(\S+)", result.stdout)
    preempted = time is not None and time[1] not in ("None", "Unknown")
    return preempted or re.search(r"\bReason=TimeLimit\b", result.stdout) is not None


def _job() -> str | None:
    """How `scontrol` knows this job: by its number, or as a task of an array by ARRAY_TASK, since the number
    of one of the tasks is that of the whole array, too."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
