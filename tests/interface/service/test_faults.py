"""What the system does to the processes of a service that runs."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.interface.service.running import RunningService, saved_model, serving
from tests.interface.service.test_api import finished, generate, samples, until_ended

LINUX = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")


def running_job(client: httpx.Client) -> str:
    """The id of the job that is at work."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        if jobs := client.get("/v1/jobs", params={"state": "running"}).json()["jobs"]:
            identifier: str = jobs[0]["id"]
            return identifier
        time.sleep(0.01)
    raise AssertionError("no job runs")


@LINUX
@pytest.mark.slow
def test_clips_of_a_killed_process_are_rendered_by_the_next(
    service: RunningService, client: httpx.Client
) -> None:
    expected = samples(generate(client, steps=900, seed=11).content)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(generate, client, steps=900, seed=11)
        running_job(client)
        os.kill(service.workers()[1], signal.SIGKILL)
        answer = asked.result(60)
    assert answer.status_code == 200, answer.text
    assert (samples(answer.content) == expected).all()
    assert 'stable_audio_process_ends_total{device="cpu"} 1.0' in client.get("/metrics").text


@LINUX
@pytest.mark.slow
def test_an_upload_survives_the_end_of_the_decoder(service: RunningService, client: httpx.Client) -> None:
    sound = generate(client).content
    os.kill(service.workers()[0], signal.SIGKILL)
    time.sleep(0.1)
    assert client.post("/v1/uploads", files={"file": ("a.wav", sound)}).status_code == 201


@pytest.mark.slow
def test_sigterm_finishes_what_is_at_work_and_keeps_the_rest(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "model")
    with serving(tmp_path / "out", *model) as service, service.client() as client:
        job = finished(client)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(generate, client, steps=1000)
            running_job(client)
            waiting = generate(client, job=True, steps=900).json()
            status = service.terminate()
            assert asked.result(30).status_code == 200
        assert status == 143
    with serving(tmp_path / "out", *model) as service, service.client() as client:
        assert until_ended(client, waiting["id"])["state"] == "done"
        assert client.get(f"/v1/jobs/{job['id']}/audio").status_code == 200
