"""What a client sees of a service that runs."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from stable_audio.cli import main
from tests.interface.service.running import RunningService

CLIP = {"prompt": "bell", "seconds": 0.4, "steps": 3, "seed": 5}


def generate(client: httpx.Client, **values: Any) -> httpx.Response:
    return client.post("/v1/generate", json={**CLIP, **values})


def finished(client: httpx.Client, **values: Any) -> dict[str, Any]:
    """A job that is done."""
    job = generate(client, job=True, **values).json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        data = [line[6:] for line in events.iter_lines() if line.startswith("data: ")]
    last: dict[str, Any] = json.loads(data[-1])
    assert last["state"] == "done", last
    return last


def samples(content: bytes) -> Any:
    return soundfile.read(io.BytesIO(content), dtype="int16")[0]


def test_a_sound_is_what_generate_makes_of_its_recipe(
    client: httpx.Client, service: RunningService, tmp_path: Path
) -> None:
    answer = generate(client)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    assert len(samples(answer.content)) == 400
    again = rendered(service, tmp_path / "plain", answer, "--ckpt-path", str(service.weights))
    assert (samples(answer.content) == again).all()
    (facts,) = (tmp_path / "plain" / "again").glob("*.json")
    assert answer.headers["x-recipe-digest"] == json.loads(facts.read_text())["digest"]


def test_the_recipe_is_in_a_header_without_paths(client: httpx.Client, service: RunningService) -> None:
    recipe = json.loads(generate(client).headers["x-recipe"])
    assert recipe["seed"] == 5
    assert recipe["sampling"]["steps"] == 3
    assert recipe["checkpoint"]["path"] == service.weights.name


def test_models_tell_what_they_read(client: httpx.Client) -> None:
    model, other = client.get("/v1/models").json()["models"]
    assert (other["name"], other["inpainting_input"], other["adapters"]) == ("gaps", True, [])
    assert (model["name"], model["adapters"]) == ("tiny", ["pad"])
    assert model["state"] == "ready"
    prompt, seconds = model["conditioners"]
    assert (prompt["key"], prompt["kind"], prompt["choices"]) == (
        "prompt",
        "choice",
        ["bell", "drum", "wind"],
    )
    assert (seconds["kind"], seconds["minimum"], seconds["maximum"]) == ("number", 0, 10)
    assert (seconds["from_length"], seconds["required"]) == (True, False)
    assert (model["sample_rate"], model["channels"], model["seconds"]) == (1000, 1, 0.64)
    assert "euler" in model["samplers"]
    assert model["objective"] == "rectified_flow"
    assert model["sampling"]["cfg_scale"] == 6.0
    assert client.get("/v1/models/tiny").json() == model


def rendered(service: RunningService, folder: Path, answer: httpx.Response, *flags: str) -> Any:
    """The samples that `stable-audio generate` makes of the recipe in an answer."""
    folder.mkdir()
    (folder / "answer.wav").write_bytes(answer.content)
    command = ["generate", "--from-json", str(folder / "answer.wav"), "--out", str(folder / "again"), *flags]
    assert main([*command, "--device", "cpu"]) == 0
    (sound,) = (folder / "again").glob("*.wav")
    return samples(sound.read_bytes())


def test_models_and_adapters_are_chosen_by_name(
    client: httpx.Client, service: RunningService, tmp_path: Path
) -> None:
    plain = samples(generate(client).content)
    off = generate(client, adapters=[{"name": "pad", "strength": 0}])
    assert (samples(off.content) == plain).all()
    some = generate(client, adapters=[{"name": "pad", "strength": 0.5, "interval": [0.2, 1]}])
    assert (samples(some.content) != plain).any()
    adapter = str(service.folder.parent / "pad.safetensors")
    flags = ["--ckpt-path", str(service.weights), "--adapter", adapter]
    assert (samples(some.content) == rendered(service, tmp_path / "adapted", some, *flags)).all()
    other = generate(client, model="gaps")
    assert (samples(other.content) != plain).any()
    flags = ["--ckpt-path", str(service.weights.parents[1] / "gaps")]
    assert (samples(other.content) == rendered(service, tmp_path / "other", other, *flags)).all()
    assert "no adapter 'pad'" in generate(client, model="gaps", adapters=[{"name": "pad"}]).text
    assert generate(client, model="nothere").status_code == 404


def test_an_edit_is_rendered_again_from_its_upload(
    client: httpx.Client, service: RunningService, tmp_path: Path
) -> None:
    sound = tmp_path / "take.wav"
    sound.write_bytes(generate(client, seed=1).content)
    upload = client.post("/v1/uploads", files={"file": ("take.wav", sound.read_bytes())}).json()
    answer = generate(client, inpaint_audio=upload["id"], inpaint=[[0.1, 0.2]])
    flags = ["--ckpt-path", str(service.weights), "--inpaint-audio", str(sound)]
    assert (samples(answer.content) == rendered(service, tmp_path / "edited", answer, *flags)).all()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"prompt": None}, "conditioning lacks prompt"),
        ({"promt": "bell"}, "did you mean 'prompt'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 10**6}, "steps must be at most 1000"),
        ({"seconds": 1e300}, "seconds must be at most 600"),
        ({"bars": 4000, "bpm": 1, "seconds": None}, "at most 600 seconds"),
        ({"sampler": "oiler"}, "unknown sampler 'oiler'"),
        ({"init_audio": "/etc/passwd"}, "id of an upload"),
        ({"init_audio": "0" * 32}, "there is no sound"),
        ({"adapters": [{"name": "pod"}]}, "no adapter 'pod'"),
        ({"adapters": [{"name": "pad", "interval": [0.5, 2]}]}, "0 <= low <= high <= 1"),
        ({"conditioning": {"prompt": "bell"}}, "leave one out"),
        ({"format": "mp3", "subtype": "16"}, "subtype of mp3"),
        ({"steps": "3", "cfg_scale": "x"}, "$.steps"),
        ({"inpaint": "0:1"}, "'inpaint' needs 'inpaint_audio', the sound"),
        ({"loudness": 40}, "loudness must be from -70 to 0 dB"),
        ({"window_seconds": -1}, "'window_seconds' must be at least 0"),
        ({"cfg_rescale": 2}, "must be from 0 to 1, found 2"),
        ({"conditioning": {"tempo": 2**70}}, "$.conditioning.tempo: whole numbers must be at most"),
    ],
)
def test_mistakes_are_told_in_a_sentence(client: httpx.Client, values: Any, told: str) -> None:
    answer = generate(client, **values)
    assert answer.status_code == 422, answer.text
    assert told in answer.json()["detail"]
    assert "--" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("jobs?limit=x", 'query.limit: found "x"; expected an integer'),
        ("jobs?limit=0", 'query.limit: found "0"; it should be greater than or equal to 1'),
        ("jobs?before=x", 'query.before: found "x"; expected a number'),
        ("jobs?starred=x", 'query.starred: found "x"; expected true or false'),
        ("jobs?state=x", "query.state: found \"x\"; it should be 'queued', 'running', 'done'"),
    ],
)
def test_mistakes_in_a_query_are_told_in_a_sentence(client: httpx.Client, query: str, told: str) -> None:
    answer = client.get(f"/v1/{query}")
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


def test_forms_without_a_file_are_told(client: httpx.Client) -> None:
    assert client.post("/v1/uploads", files={"sound": b"x"}).json()["detail"] == "body.file: missing"
    told = client.post("/v1/uploads", data={"file": "x"}).json()["detail"]
    assert told == 'body.file: found "x"; expected a file'


def test_changes_of_a_job_are_checked_as_requests_are(client: httpx.Client) -> None:
    job = generate(client, job=True).json()["id"]
    for content, status, told in [
        (b"x", 400, "is not JSON"),
        (b'{"stared": true}', 422, "$.stared: unknown key; did you mean 'starred'?"),
        (b'{"starred": 1, "title": 2}', 422, "$.starred: found 1; expected true or false; $.title: found 2"),
    ]:
        answer = client.patch(f"/v1/jobs/{job}", content=content)
        assert answer.status_code == status
        assert told in answer.json()["detail"]


def test_limits_are_those_in_effect(client: httpx.Client) -> None:
    limits = client.get("/v1/limits").json()
    assert limits["batch_size"] > 0
    assert limits["client_queue"] == limits["queue"] // 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[1]", 400),
        (b"[" * 100_000, 400),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400),
        (b'{"prompt": "\\ud800"}', 422),
        (b'{"prompt": "bell", "title": "caf\\udce9"}', 422),
        (b'{"conditioning": {"prompt\\udce9": "bell"}}', 422),
        (b'{"seconds": NaN}', 422),
        (b" " * (1 << 20) + b"{}", 413),
    ],
)
def test_garbage_is_refused(client: httpx.Client, body: bytes, status: int) -> None:
    answer = client.post("/v1/generate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_every_format_holds_the_same_sound(client: httpx.Client) -> None:
    job = finished(client)
    heard = {}
    for name in ("wav", "flac", "mp3", "ogg", "opus"):
        answer = client.get(f"/v1/jobs/{job['id']}/audio", params={"format": name})
        assert answer.status_code == 200, answer.text
        heard[name] = samples(answer.content)
    assert (heard["wav"] == heard["flac"]).all()
    part = client.get(f"/v1/jobs/{job['id']}/audio", headers={"range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")


def test_pictures_of_a_sound(client: httpx.Client) -> None:
    job = finished(client)
    exact = samples(client.get(f"/v1/jobs/{job['id']}/audio", params={"subtype": "float"}).content)
    peaks = client.get(f"/v1/jobs/{job['id']}/peaks", params={"parts": 100}).json()
    assert len(peaks["minimum"]) == len(peaks["maximum"]) == 100
    assert peaks["seconds"] == 0.4
    assert max(peaks["maximum"]) == pytest.approx(max(job["result"]["peak"], 0), abs=1e-4) or min(
        peaks["minimum"]
    ) == pytest.approx(-job["result"]["peak"], abs=1e-4)
    assert len(exact) == 400
    picture = client.get(f"/v1/jobs/{job['id']}/spectrogram.png", params={"width": 64, "height": 32})
    assert picture.content[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.content[16:24] == (64).to_bytes(4, "big") + (32).to_bytes(4, "big")


def test_the_history_is_searched_starred_and_cleared(client: httpx.Client) -> None:
    job = finished(client, title="a Rare Title 100%")
    found = client.get("/v1/jobs", params={"search": "rare 100%"}).json()["jobs"]
    assert [j["id"] for j in found] == [job["id"]]
    assert client.get("/v1/jobs", params={"search": "rare_title"}).json()["jobs"] == []
    changed = client.patch(f"/v1/jobs/{job['id']}", json={"starred": True, "title": "ö <b>"}).json()
    assert (changed["starred"], changed["title"]) == (True, "ö <b>")
    starred = client.get("/v1/jobs", params={"starred": True}).json()["jobs"]
    assert job["id"] in [j["id"] for j in starred]
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert client.get(f"/v1/jobs/{job['id']}/audio").status_code == 404


def test_the_history_goes_on_page_by_page(client: httpx.Client) -> None:
    ids = [finished(client, title="paged", seed=n)["id"] for n in range(3)][::-1]
    first = client.get("/v1/jobs", params={"search": "paged", "limit": 2}).json()
    rest = client.get("/v1/jobs", params={"search": "paged", "limit": 2, "before": first["before"]}).json()
    assert [j["id"] for j in first["jobs"] + rest["jobs"]] == ids
    assert rest["before"] is None


def test_an_upload_is_where_a_clip_starts(client: httpx.Client) -> None:
    sound = generate(client, seed=1).content
    upload = client.post("/v1/uploads", files={"file": ("../../x.wav", sound)}).json()
    assert (upload["seconds"], upload["sample_rate"], upload["channels"]) == (0.4, 1000, 1)
    peaks = client.get(f"/v1/uploads/{upload['id']}/peaks", params={"parts": 16}).json()
    assert len(peaks["minimum"]) == 16
    started = generate(client, init_audio=upload["id"], init_noise_level=0.3)
    assert started.status_code == 200
    assert samples(started.content).tolist() != samples(generate(client).content).tolist()
    assert json.loads(started.headers["x-recipe"])["init_audio"]["path"] == upload["id"]
    kept = generate(client, inpaint_audio=upload["id"], inpaint=[[0.2, 0.3]])
    assert (samples(kept.content)[:200] == samples(sound)[:200]).all()
    assert client.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert generate(client, init_audio=upload["id"]).status_code == 422


def test_a_result_is_where_a_clip_starts(client: httpx.Client) -> None:
    job = finished(client, seed=2)
    kept = generate(client, inpaint_audio=job["id"], inpaint="0.2:0.3")
    own = client.get(f"/v1/jobs/{job['id']}/audio").content
    assert (samples(kept.content)[:200] == samples(own)[:200]).all()


def test_a_cancelled_job_frees_the_device(client: httpx.Client) -> None:
    long = generate(client, steps=1000, job=True, seconds=0.6).json()
    cancelled = client.post(f"/v1/jobs/{long['id']}/cancel").json()
    assert cancelled["state"] == "cancelled"
    assert generate(client).status_code == 200
    after = client.get(f"/v1/jobs/{long['id']}").json()
    assert after["state"] == "cancelled"
    assert client.get(f"/v1/jobs/{long['id']}/audio").status_code == 409


def test_a_job_is_given_up_at_its_deadline(client: httpx.Client) -> None:
    answer = generate(client, steps=1000, deadline=0.05)
    assert answer.status_code == 504
    assert "0.05 seconds" in answer.json()["detail"]


def test_documentation_asks_nothing_of_others(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "/v1/generate" in page
    assert "cfg_scale" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page


def test_metrics_are_those_of_prometheus(client: httpx.Client) -> None:
    finished(client)
    text = client.get("/metrics").text
    assert 'stable_audio_jobs_total{model="tiny",state="done"}' in text
    for name in ("queue_seconds_bucket", "real_time_factor_bucket", "memory_bytes", "waiting_jobs", "ready"):
        assert f"stable_audio_{name}" in text


def until_ended(client: httpx.Client, id: str) -> dict[str, Any]:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        job: dict[str, Any] = client.get(f"/v1/jobs/{id}").json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.01)
    raise AssertionError(f"{id} does not end")


def test_who_leaves_gives_the_clip_up(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/generate", json={**CLIP, "steps": 1000, "title": "left"}, timeout=0.2)
    (job,) = client.get("/v1/jobs", params={"search": "left"}).json()["jobs"]
    job = until_ended(client, job["id"])
    assert (job["state"], job["error"]) == ("cancelled", "its client went away")


def test_those_who_read_slowly_hold_nobody_up(service: RunningService, client: httpx.Client) -> None:
    job = finished(client)
    host, port = service.url.removeprefix("http://").split(":")
    request = (
        f"GET /v1/jobs/{job['id']}/audio?subtype=float HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    slow = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in slow:
        connection.sendall(request.encode())
    assert generate(client).status_code == 200
    whole = client.get(f"/v1/jobs/{job['id']}/audio", params={"subtype": "float"}).content
    for connection in slow:
        received = b""
        while piece := connection.recv(17):
            received += piece
        assert received.partition(b"\r\n\r\n")[2] == whole
        connection.close()


def test_garbage_and_half_requests_do_no_harm(service: RunningService, client: httpx.Client) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    half = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    connections = []
    for content in (b"\x00\xff" * 5000, b"GET / HTTP/9.9\r\n\r\n", half, b"GET " + b"x" * 100_000):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(content)
        connections.append(connection)
    assert generate(client).status_code == 200
    for connection in connections:
        connection.close()
    assert client.get("/health").json()["status"] == "ok"


def test_many_clients_at_once_get_their_own_sounds(service: RunningService, client: httpx.Client) -> None:
    alone = {seed: samples(generate(client, seed=seed).content) for seed in range(8)}
    barrier = threading.Barrier(16)

    def ask(number: int) -> Any:
        barrier.wait()
        with service.client() as own:
            return number % 8, generate(own, seed=number % 8)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    for seed, answer in answers:
        assert answer.headers["x-seed"] == str(seed)
        # Sums of a batch are rounded otherwise: by less than one step of 16 bits.
        assert abs(samples(answer.content).astype(int) - alone[seed].astype(int)).max() <= 1


def test_a_second_service_is_refused_the_folder(
    service: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    from stable_audio.cli import main

    command = ["serve", str(service.weights), "--out", str(service.folder), "--port", "0"]
    assert main(command) == 2
    assert "is in use by another service (process " in capsys.readouterr().err
