"""What becomes of jobs, whatever their processes do."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from stable_audio.interface.service.settings import Access
from tests.interface.service.scripted import ScriptedService, clip, pause, scripted, until

Test = Callable[[ScriptedService], Awaitable[None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Run a test in a service."""

    def run(test: Test, **options: Any) -> None:
        async def whole() -> None:
            async with scripted(monkeypatch, tmp_path, **options) as service:
                await test(service)

        asyncio.run(whole())

    return run


async def queued(service: ScriptedService, token: str | None = None, **values: Any) -> str:
    """The id of a job that waits."""
    async with service.client(token) as client:
        answer = await client.post("/v1/generate", json=clip(job=True, **values))
        assert answer.status_code == 202, answer.text
        identifier: str = answer.json()["id"]
        return identifier


async def state(service: ScriptedService, id: str) -> dict[str, Any]:
    async with service.client() as client:
        values: dict[str, Any] = (await client.get(f"/v1/jobs/{id}")).json()
        return values


def test_waiting_clips_that_fit_share_a_batch(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        first = await queued(service, seed=1)
        alike = [await queued(service, seed=n, prompt="drum", cfg_scale=2.0 + n) for n in (2, 3)]
        other = await queued(service, seed=4, steps=3)
        last = await queued(service, seed=5)
        process = service.process
        assert process.finish() == [first]
        assert process.finish() == [*alike, last]
        assert process.finish() == [other]
        for number, id in enumerate([first, *alike, other, last], start=1):
            async with service.client() as client:
                sound = (await client.get(f"/v1/jobs/{id}/audio?subtype=float")).content
            assert soundfile.read(io.BytesIO(sound))[0][0] == pytest.approx(number / 1000)

    run(test)


def test_batches_end_at_their_limit(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        ids = [await queued(service, seed=n) for n in range(6)]
        assert [service.process.finish() for _ in range(3)] == [ids[:1], ids[1:4], ids[4:]]

    run(test, batch_size=3)


def test_an_idle_device_waits_a_moment_for_company(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        ids = [await queued(service, seed=n) for n in range(2)]
        await until(lambda: service.process.batch is not None)
        assert service.process.finish() == ids

    run(test, batch_wait=0.2, batch_size=4)


def test_clients_take_turns(run: Callable[..., None]) -> None:
    access = Access(tokens={"many": "m" * 16, "few": "f" * 16})

    async def test(service: ScriptedService) -> None:
        many = [await queued(service, "m" * 16, seed=n) for n in range(4)]
        few = await queued(service, "f" * 16)
        order = [service.process.finish()[0] for _ in range(5)]
        assert order == [many[0], many[1], few, *many[2:]]
        async with service.client("f" * 16) as client:
            assert (await client.get(f"/v1/jobs/{many[0]}")).status_code == 404
            assert (await client.get(f"/v1/jobs/{many[0]}/audio")).status_code == 404
            assert [j["id"] for j in (await client.get("/v1/jobs")).json()["jobs"]] == [few]
            answer = await client.post("/v1/generate", json=clip(init_audio=many[0]))
            assert answer.status_code == 422

    run(test, access=access, batch_size=1)


def test_a_full_queue_says_when_to_come_again(run: Callable[..., None]) -> None:
    access = Access(tokens={"a": "a" * 16, "b": "b" * 16, "c": "c" * 16})

    async def test(service: ScriptedService) -> None:
        await queued(service, "a" * 16)  # at work, so that it does not wait
        for token in ("a", "a", "b"):
            await queued(service, token * 16)
        for token, status in (("a", 429), ("c", 503)):
            async with service.client(token * 16) as client:
                answer = await client.post("/v1/generate", json=clip(job=True))
                assert answer.status_code == status
                assert int(answer.headers["retry-after"]) >= 1
                assert "waiting" in answer.json()["detail"]
            if token == "a":
                await queued(service, "b" * 16)  # there is room for others

    run(test, access=access, queue=4, client_queue=2)


def test_a_dead_process_is_replaced_and_its_clips_rendered_once_more_alone(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        ids = [await queued(service, seed=n) for n in range(3)]
        service.process.finish()
        assert service.process.batches[-1] == ids[1:]
        service.process.die()
        service.process.batch = None
        await until(lambda: service.process.starts == 2)
        await until(lambda: service.process.batch is not None)
        alone = [service.process.finish() for _ in range(2)]
        assert sorted(alone) == sorted([[ids[1]], [ids[2]]])
        assert [(await state(service, id))["state"] for id in ids] == ["done"] * 3

    run(test)


def test_a_clip_whose_process_dies_twice_fails(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        id = await queued(service)
        service.process.die()
        service.process.batch = None
        await until(lambda: service.process.batch is not None)
        service.process.die()
        ended = await state(service, id)
        assert ended["state"] == "failed"
        assert "SIGKILL" in ended["error"]

    run(test)


def test_a_batch_is_stopped_once_nobody_wants_it(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        held = await queued(service, seed=0)
        ids = [await queued(service, seed=n) for n in (1, 2)]
        service.process.finish()
        async with service.client() as client:
            await client.post(f"/v1/jobs/{ids[0]}/cancel")
            assert service.process.cancels == 0
            assert (await state(service, ids[0]))["state"] == "cancelled"
            await client.delete(f"/v1/jobs/{ids[1]}")
        assert service.process.cancels == 1
        service.process.end()
        assert (await state(service, held))["state"] == "done"

    run(test)


def test_one_of_a_batch_can_be_cancelled_and_leaves_no_file(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        await queued(service, seed=0)
        ids = [await queued(service, seed=n) for n in (1, 2)]
        service.process.finish()
        service.service.cancel(ids[0])
        service.process.finish()
        await until(lambda: not service.service.files.exists(ids[0]))
        assert [(await state(service, id))["state"] for id in ids] == ["cancelled", "done"]

    run(test)


def test_a_process_that_does_not_stop_is_ended(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_audio.interface.service import pool

    monkeypatch.setattr(pool, "STOPS_WITHIN", 0.01)

    async def test(service: ScriptedService) -> None:
        id = await queued(service)
        service.service.cancel(id)
        await until(lambda: service.process.killed)

    run(test)


def test_a_waiting_job_is_given_up_at_its_deadline(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        await queued(service)
        late = await queued(service, deadline=0.02)
        await until(lambda: late not in service.service.active)
        assert (await state(service, late))["error"] == "was not done within its 0.02 seconds"
        assert len(service.service.waiting) == 0

    run(test)


def test_what_a_process_refuses_is_told(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        async with service.client() as client:
            asked = asyncio.create_task(client.post("/v1/generate", json=clip()))
            await until(lambda: service.process.batch is not None)
            service.process.fail("too little memory", 503)
            answer = await asked
        assert (answer.status_code, answer.json()["detail"]) == (503, "too little memory")
        assert answer.headers["retry-after"] == "10"

    run(test)


def test_progress_comes_as_events_and_ends_with_the_job(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        from stable_audio.interface.service.following import followed

        id = await queued(service, steps=4)
        record = service.service.active[id].record
        events = followed(service.service, record)
        assert '"state":"running"' in await anext(events)
        service.process.step(3, 4)
        told = await anext(events)
        assert '"step":3' in told
        assert '"seconds_left":null' not in told
        service.process.finish()
        rest = [event async for event in events]
        assert '"state":"done"' in rest[-1]

    run(test)


def test_draining_tells_those_who_wait_and_keeps_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def test() -> None:
        async with scripted(monkeypatch, tmp_path) as service, service.client() as client:
            running = asyncio.create_task(client.post("/v1/generate", json=clip(seed=1)))
            await until(lambda: service.process.batch is not None)
            waits = asyncio.create_task(client.post("/v1/generate", json=clip(seed=2, steps=3)))
            kept = await queued(service, seed=3, steps=4)
            await until(lambda: len(service.service.waiting) == 2)
            drained = asyncio.create_task(service.service.drain(10))
            answer = await waits
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            refused = await client.post("/v1/generate", json=clip())
            assert (refused.status_code, refused.json()["detail"]) == (503, "the service is stopping")
            assert (await client.get("/ready")).status_code == 503
            await pause()
            assert not drained.done()
            service.process.finish()
            assert (await running).status_code == 200
            await drained
        async with scripted(monkeypatch, tmp_path) as service:
            await until(lambda: service.process.batch is not None)
            assert service.process.finish() == [kept]
            assert (await state(service, kept))["state"] == "done"

    asyncio.run(test())


def test_what_a_crash_leaves_is_taken_up_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing but the database and the files is used, as if the process had been killed."""

    async def test() -> None:
        ids = {}
        async with scripted(monkeypatch, tmp_path) as service:
            ids["finished"] = await queued(service, seed=1)
            ids["running"] = await queued(service, seed=2, steps=3)
            ids["queued"] = await queued(service, seed=3, steps=4)
            service.process.finish()
            store = service.service.store
            records = {name: await service.service.in_database(store.job, id) for name, id in ids.items()}
            assert [r.state for r in records.values()] == ["done", "running", "queued"]
            records["finished"].state = "running"  # killed after the files, before the database
            records["waited for"] = await service.service.in_database(store.job, ids["queued"])
            records["waited for"].id, records["waited for"].waits = "0" * 32, True
        async with scripted(monkeypatch, tmp_path / "other"):
            pass
        from stable_audio.interface.service.service import DATABASE
        from stable_audio.interface.service.store import JobStore

        store = JobStore(tmp_path / DATABASE)
        for record in records.values():
            store.put(record)
        store.close()
        async with scripted(monkeypatch, tmp_path) as service:
            assert (await state(service, ids["finished"]))["state"] == "done"
            result = (await state(service, ids["finished"]))["result"]
            assert (result["samples"], result["seconds"], result["clipped"]) == (100, 0.1, False)
            assert "ended before" in (await state(service, "0" * 32))["error"]
            await until(lambda: service.process.batch is not None)
            assert [service.process.finish() for _ in range(2)] == [[ids["running"]], [ids["queued"]]]

    asyncio.run(test())


def test_old_results_make_room_but_starred_ones_stay(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        ids = []
        for number in range(20):
            ids.append(await queued(service, seed=number))
            if number == 0:
                async with service.client() as client:
                    await client.patch(f"/v1/jobs/{ids[0]}", json={"starred": True})
            service.process.finish()
        files = service.service.files
        await until(lambda: not files.exists(ids[1]))
        assert [id for id in ids if files.exists(id)] == [ids[0], *ids[17:]]
        assert (await state(service, ids[1])) == {"detail": "there is no such job"}

    run(test, results=3)


def test_metrics_have_the_time_from_request_to_sound(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        await queued(service)
        await asyncio.sleep(0.1)
        service.process.finish()
        async with service.client() as client:
            text = (await client.get("/metrics")).text
        (seconds,) = re.findall(r'stable_audio_job_seconds_sum{model="tiny"} (.*)', text)
        assert 0.1 <= float(seconds) < 10
        assert 'stable_audio_real_time_factor_sum{model="tiny"} 2.0' in text
        assert "stable_audio_batch_clips_count 1.0" in text
        assert 'stable_audio_memory_bytes{device="cpu",kind="resident"} 1.0' in text

    run(test)


def test_two_devices_share_the_queue(run: Callable[..., None]) -> None:
    async def test(service: ScriptedService) -> None:
        ids = [await queued(service, seed=n) for n in range(3)]
        processes: list[Any] = service.service.pool.processes
        assert [p.batches for p in processes] == [[[ids[0]]], [[ids[1]]]]
        processes[1].finish()
        assert processes[1].batches[-1] == [ids[2]]

    run(test, devices=2)
