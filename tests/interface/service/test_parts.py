"""Parts of the service by themselves: access, the queue, the store, names, what passes the gate."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import serve
from stable_audio.interface.service.access import Client, client_of
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.names import name_of, named, read_tokens
from stable_audio.interface.service.records import JobRecord, UploadRecord
from stable_audio.interface.service.request import GenerateRequest
from stable_audio.interface.service.settings import (
    Access,
    Limits,
    ModelSource,
    ServiceSettings,
    WorkerOptions,
)
from stable_audio.interface.service.store import VERSION, JobStore
from stable_audio.interface.service.waiting import WaitingJob, WaitingJobs
from stable_audio.wording import flag_of
from tests.interface.service.scripted import clip, scripted

LOCAL = Access(hosts=("localhost", "127.0.0.1", "::1"))
TOKENS = Access(tokens={"ann": "a" * 20, "bob": "b" * 20})


@pytest.mark.parametrize(
    ("access", "path", "headers", "status"),
    [
        (LOCAL, "/v1/jobs", {"host": "localhost:8000"}, None),
        (LOCAL, "/v1/jobs", {"host": "[::1]:8000"}, None),
        (LOCAL, "/v1/jobs", {"host": "evil.example"}, 421),
        (LOCAL, "/v1/jobs", {}, 421),
        (LOCAL, "/v1/jobs", {"host": "localhost:8000", "origin": "http://localhost:8000"}, None),
        (LOCAL, "/v1/jobs", {"host": "localhost:8000", "origin": "https://evil.example"}, 403),
        (LOCAL, "/v1/jobs", {"host": "localhost:8000", "origin": "http://localhost:9000"}, 403),
        (LOCAL, "/v1/jobs", {"host": "localhost", "origin": "null"}, 403),
        (Access(origins=("https://a.example",)), "/x", {"host": "h", "origin": "https://a.example"}, None),
        (TOKENS, "/v1/jobs", {}, 401),
        (TOKENS, "/v1/jobs", {"authorization": "Bearer " + "c" * 20}, 401),
        (TOKENS, "/v1/jobs", {"authorization": "Bearer " + "a" * 19}, 401),
        (TOKENS, "/v1/jobs", {"authorization": "Basic " + "a" * 20}, 401),
        (TOKENS, "/v1/jobs", {"authorization": "Bearer \u00e9"}, 401),
        (TOKENS, "/metrics", {}, 401),
        (TOKENS, "/health", {}, None),
        (TOKENS, "/docs", {}, None),
    ],
)
def test_who_is_answered(access: Access, path: str, headers: dict[str, str], status: int | None) -> None:
    if status is None:
        assert client_of(access, path, headers, "1.2.3.4") == Client("1.2.3.4")
        return
    with pytest.raises(ServiceError) as refused:
        client_of(access, path, headers, "1.2.3.4")
    assert refused.value.status == status


def test_a_token_is_a_client_wherever_it_comes_from() -> None:
    headers = {"authorization": "bearer " + "b" * 20}
    assert client_of(TOKENS, "/v1/jobs", headers, "1.2.3.4") == Client("bob", "bob")


def test_turns_of_clients_and_batches() -> None:
    waiting = WaitingJobs()
    for id, client, key in [
        ("a1", "a", 1),
        ("a2", "a", 2),
        ("a3", "a", 1),
        ("b1", "b", 1),
        ("c1", "c", None),
    ]:
        waiting.add(WaitingJob(id, client, key))
    assert [job.id for job in waiting.in_turn()] == ["a1", "b1", "c1", "a2", "a3"]
    assert [waiting.position(id) for id in ("a1", "a3", "none")] == [0, 4, None]
    places = waiting.positions()
    assert len(places) == len(waiting)
    assert places == {id: waiting.position(id) for id in places}
    assert [job.id for job in waiting.peek(2)] == ["a1", "b1"]
    assert [job.id for job in waiting.take(8)] == ["a1", "b1", "a3"]
    assert [job.id for job in waiting.take(8)] == ["c1"]
    assert (len(waiting), waiting.of_client("a"), waiting.of_client("b")) == (1, 1, 0)
    assert waiting.remove("a2")
    assert not waiting.remove("a2")
    assert waiting.take(8) == []


def job(id: str, **values: Any) -> JobRecord:
    return JobRecord(id=id, model="tiny", line={"conditioning": {"prompt": "ö%_\\"}}, **values)


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    record = job("a", result={"peak": 0.5}, recipe={"seed": 2}, starred=True, waits=True, subtype="24")
    store.put(record)
    assert store.job("a") == record
    record.state, record.started = "running", 3.5
    store.put(record)
    store.close()
    store = JobStore(tmp_path / "jobs.sqlite")
    assert store.unfinished() == [record]
    upload = UploadRecord("u", "ann", "x.wav", "0" * 16, 1.0, 2.0, 8000, 1)
    store.put_upload(upload)
    assert (store.upload("u"), store.uploads("ann"), store.uploads("bob")) == (upload, [upload], [])
    store.close()


@pytest.mark.parametrize(("words", "found"), [("ö%", 1), ("%_", 1), ("\\", 1), ("ö_", 0), ("'; DROP", 0)])
def test_words_are_searched_as_they_are(tmp_path: Path, words: str, found: int) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.put(job("a"))
    assert len(store.jobs("", search=words)) == found
    assert store.jobs("other", search=words) == []
    store.close()


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "text").write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(ValueError, match="is no database"):
        JobStore(tmp_path / "text")
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    newer.close()
    with pytest.raises(ValueError, match="newer version"):
        JobStore(tmp_path / "newer")


def test_names_follow_from_paths_unless_they_are_given(tmp_path: Path) -> None:
    assert name_of("runs/bells/last.safetensors") == "bells"
    assert name_of("runs/bells") == "bells"
    assert name_of("runs/drums.ckpt") == "drums"
    assert named(["runs/bells", "x=a=b.ckpt"]) == [("bells", "runs/bells"), ("x", "a=b.ckpt")]
    with pytest.raises(ValueError, match="give each a name"):
        named(["a/bells", "b/bells"])
    assert named(["x=caf\udce9.ckpt"]) == [("x", "caf\udce9.ckpt")]
    with pytest.raises(
        ValueError, match="with the byte E9, which is not UTF-8; give it another, as NAME=PATH"
    ):
        named(["caf\udce9.ckpt"])
    with pytest.raises(ValueError, match="several models"):
        ServiceSettings(models=[ModelSource(name="x", checkpoint=c) for c in "ab"], folder=tmp_path)


def test_tokens_are_read_from_lines(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# those of the lab\nann {'a' * 20}\n\n{'b' * 20}\n")
    assert read_tokens(str(file), None) == {"ann": "a" * 20, "client-2": "b" * 20}
    assert read_tokens(None, "c" * 20) == {"client-1": "c" * 20}
    assert read_tokens(None, None) == {}
    for text, told in [("ann short", "at least 16"), ("", "no token"), ("a b c", "3 words")]:
        file.write_text(text)
        with pytest.raises(ValueError, match=told):
            read_tokens(str(file), None)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantised_weights_take_no_adapters(tmp_path: Path, dtype: str) -> None:
    worker = WorkerOptions(loading={"dtype": dtype})
    models = [ModelSource(name="x", checkpoint="x")]
    assert ServiceSettings(models=models, folder=tmp_path, worker=worker)
    with pytest.raises(ValueError, match="take no adapters"):
        ServiceSettings(models=models, folder=tmp_path, worker=worker, adapters={"pad": "pad.safetensors"})


@pytest.mark.parametrize(
    "name", ["max_seconds", "max_steps", "queue", "deadline", "upload_megabytes", "decode_seconds"]
)
def test_limits_are_above_zero(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{flag_of(name)} must be above 0"):
        Limits(**{name: 0})


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["batch_wait", "deadline", "decode_seconds", "upload_seconds"])
def test_limits_are_finite(name: str, value: float) -> None:
    with pytest.raises(
        ValueError, match=f"^{flag_of(name)} must be a finite number of at least 0, found {value}"
    ):
        Limits(**{name: value})


def test_limits_are_called_as_a_user_types_them() -> None:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    offered = {flag for action in parser._actions for flag in action.option_strings}
    called = {}
    for name in vars(Limits()):
        with pytest.raises(ValueError, match="must be a finite number of at least 0, found -1") as caught:
            Limits(**{name: -1})
        called[name] = str(caught.value).split()[0]
    others = {name for name, shown in called.items() if shown not in offered}
    assert others == {"connections", "body_seconds", "read_seconds"}
    assert all(called[name] == name for name in others)
    assert called["uploads"] == "--keep-uploads"


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "*", "https://"])
def test_origins_that_no_browser_sends_are_refused(origin: str) -> None:
    with pytest.raises(ValueError, match=r"a site without a path, such as https://example\.org; found"):
        Access(origins=(origin,))


def test_other_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    models = [ModelSource(name="x", checkpoint="x")]
    with pytest.raises(ValueError, match=r"^--drain-seconds must be a number of at least 0, found -1"):
        ServiceSettings(models=models, folder=tmp_path, drain_seconds=-1)
    with pytest.raises(ValueError, match=r"^--resident must be at least 0"):
        WorkerOptions(resident=-1)


def test_a_request_has_every_key_of_a_line() -> None:
    from stable_audio.inference.rendering.job_lines import LINE_KEYS

    left_out = {"guide_scale", "options", "name"}  # the service has no guide; sampler_options; title
    assert set(LINE_KEYS) - left_out <= set(GenerateRequest.model_fields)


def test_bodies_that_are_too_large_or_too_slow_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 100_000

    async def test() -> None:
        async with scripted(monkeypatch, tmp_path, body_seconds=0.05) as service, service.client() as client:
            slow = await client.post("/v1/generate", content=never())
            assert (slow.status_code, "did not arrive" in slow.json()["detail"]) == (408, True)
            long = await client.post("/v1/generate", content=pieces())
            assert (long.status_code, "at most" in long.json()["detail"]) == (413, True)
            size = {"content-length": "99999999"}
            assert (await client.post("/v1/generate", content=b"{}", headers=size)).status_code == 413
            size = {"content-length": "many"}
            assert (await client.post("/v1/generate", content=b"{}", headers=size)).status_code == 400

    asyncio.run(test())


def test_more_requests_at_once_than_allowed_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def test() -> None:
        async with scripted(monkeypatch, tmp_path, connections=1) as service, service.client() as client:
            held = asyncio.create_task(client.post("/v1/generate", json=clip()))
            while service.process.batch is None:
                await asyncio.sleep(0.005)
            refused = await client.get("/health")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            service.process.finish()
            assert (await held).status_code == 200
            assert (await client.get("/health")).status_code == 200

    asyncio.run(test())


def test_a_database_that_takes_nothing_refuses_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sqlite3

    def full(job: JobRecord) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async def test() -> None:
        async with scripted(monkeypatch, tmp_path) as service, service.client() as client:
            monkeypatch.setattr(service.service.store, "put", full)
            refused = await client.post("/v1/generate", json=clip(job=True))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
            assert not service.service.active
            assert (await client.get("/health")).status_code == 200

    asyncio.run(test())
