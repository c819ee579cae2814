"""The service against its own OpenAPI description: no request makes it fail, no answer is undescribed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.interface.service.scripted import ScriptedService, scripted

_TEXTS = st.text(max_size=12) | st.sampled_from(["bell", "euler", "1:2", "/etc/passwd", "0" * 32, "\x00"])
_NUMBERS = st.integers(-3, 40) | st.floats(allow_nan=False) | st.sampled_from([2**70, 1e300, -0.0])
_ANY = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_CONDITIONING = st.fixed_dictionaries(
    {}, optional={"prompt": st.sampled_from(["bell", "drum"]) | _ANY, "seconds_total": _ANY, "x": _ANY}
)
_OPEN = ("conditioning", "negative_conditioning", "to_conditioning", "init_conditioning")
_SCALARS: Mapping[str, st.SearchStrategy[Any]] = {
    "string": _TEXTS,
    "integer": st.integers(-3, 40),
    "number": _NUMBERS,
    "boolean": st.booleans(),
    "null": st.none(),
}


def values_of(schema: Mapping[str, Any], components: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a JSON schema, those at the edges and beyond ranges among them."""
    if "$ref" in schema:
        return values_of(components[schema["$ref"].rpartition("/")[2]], components)
    if "anyOf" in schema:
        return st.one_of([values_of(part, components) for part in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        items = values_of(schema.get("items", {}), components)
        return st.lists(items, min_size=schema.get("minItems", 0), max_size=schema.get("maxItems", 3))
    if kind == "object" and "properties" in schema:
        parts = {name: values_of(part, components) for name, part in schema["properties"].items()}
        required = schema.get("required", ())
        optional = {name: part for name, part in parts.items() if name not in required}
        return st.fixed_dictionaries({name: parts[name] for name in required}, optional=optional)
    return _SCALARS.get(str(kind), _ANY)


def bodies(schema: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Requests with some keys of their schema, most of them as they should be, some not."""
    components = schema["components"]["schemas"]
    keys = components["GenerateRequest"]["properties"]
    drawn = {
        name: _CONDITIONING if name in _OPEN else values_of(part, components) for name, part in keys.items()
    }

    def some(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(
            {name: drawn[name] | _ANY if name == names[0] else drawn[name] for name in names}
        )

    chosen = st.lists(st.sampled_from(sorted(drawn)), min_size=1, max_size=5, unique=True).flatmap(some)
    return st.tuples(chosen, st.booleans()).map(
        lambda pair: {"job": True, **({"conditioning": {"prompt": "bell"}} if pair[1] else {}), **pair[0]}
    )


def check(schema: Mapping[str, Any], path: str, method: str, answer: httpx.Response) -> None:
    """An answer is one that the description of its route has."""
    told = schema["paths"][path][method]["responses"]
    assert str(answer.status_code) in told, (path, method, answer.status_code, answer.text)
    assert answer.status_code != 500
    content = told[str(answer.status_code)].get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if content:
        assert kind in content, (path, kind, answer.text)
    if answer.status_code >= 400 and path != "/ready":
        detail = answer.json()["detail"]
        assert isinstance(detail, str)
        assert detail
        assert "Traceback" not in detail
        assert "/secret" not in detail
    if answer.status_code in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1


def exchange(monkeypatch: pytest.MonkeyPatch, folder: Path, work: Any) -> None:
    async def whole() -> None:
        limits = {"queue": 10_000, "client_queue": 10_000}
        async with scripted(monkeypatch, folder, **limits) as service, service.client() as client:
            await work(service, client)

    asyncio.run(whole())


def test_any_body_is_answered_as_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[tuple[dict[str, Any], int]] = []

    async def work(service: ScriptedService, client: httpx.AsyncClient) -> None:
        schema = (await client.get("/openapi.json")).json()
        loop = asyncio.get_running_loop()

        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(body=bodies(schema))
        @example(body={"job": True, "conditioning": {"prompt": "bell"}})  # few of those drawn are right
        @example(body={"job": True, "conditioning": {"prompt": "bell"}, "steps": -1})
        def examples(body: dict[str, Any]) -> None:
            body = {**body, "job": body["job"] if isinstance(body["job"], bool) and body["job"] else True}
            sent = client.post("/v1/generate", content=json.dumps(body))
            answer = asyncio.run_coroutine_threadsafe(sent, loop).result(30)
            drawn.append((body, answer.status_code))
            check(schema, "/v1/generate", "post", answer)
            if answer.status_code == 202:
                assert answer.json()["request"]["seed"] >= 0

        await asyncio.to_thread(examples)

    exchange(monkeypatch, tmp_path, work)
    statuses = [status for _, status in drawn]
    assert {202, 422} <= set(statuses)


def test_any_bytes_are_answered_as_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def work(service: ScriptedService, client: httpx.AsyncClient) -> None:
        schema = (await client.get("/openapi.json")).json()
        loop = asyncio.get_running_loop()
        routes = [
            (path, method, operation)
            for path, methods in schema["paths"].items()
            for method, operation in methods.items()
        ]
        texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
            ["../..", "%00", "0" * 32]
        )

        @settings(max_examples=100, deadline=None, database=None)
        @given(data=st.data())
        def examples(data: st.DataObject) -> None:
            path, method, operation = data.draw(st.sampled_from(routes))
            part = texts.map(lambda text: quote(text.strip(". ").replace("/", "_"), safe="") or "x")
            address = re.sub(r"\{\w+\}", lambda _: data.draw(part), path)
            names = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
            query = {
                name: data.draw(texts | st.integers(-1, 99).map(str))
                for name in names
                if data.draw(st.booleans())
            }
            content = (
                data.draw(st.binary(max_size=40) | st.just(b"{}")) if method in ("post", "patch") else None
            )
            kinds = ["application/json", "multipart/form-data; boundary=x", "text/plain", "x"]
            headers = {"content-type": data.draw(st.sampled_from(kinds))} if content is not None else {}
            url = f"{address}?{urlencode(query)}"
            sent = client.request(method, url, content=content, headers=headers)
            answer = asyncio.run_coroutine_threadsafe(sent, loop).result(30)
            check(schema, path, method, answer)

        await asyncio.to_thread(examples)

    exchange(monkeypatch, tmp_path, work)


def test_the_description_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every reference leads somewhere, and every key of a request is described."""

    async def work(service: ScriptedService, client: httpx.AsyncClient) -> None:
        schema = (await client.get("/openapi.json")).json()
        known = schema["components"]["schemas"]
        references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema))
        assert set(references) <= set(known)
        undescribed = [
            n for n, k in known["GenerateRequest"]["properties"].items() if not k.get("description")
        ]
        assert not undescribed
        assert (await client.get("/openapi.json")).json() == schema

    exchange(monkeypatch, tmp_path, work)
