"""Addresses of the page, without a process that renders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from stable_audio.interface.page.routes import POLICY, page_app
from stable_audio.interface.service.service import Service
from stable_audio.interface.service.settings import Access, ModelSource, ServiceSettings


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    models = [ModelSource(name="a", checkpoint="nowhere.ckpt")]
    access = Access(tokens={"me": "0123456789abcdef"})
    service = Service(ServiceSettings(models=models, folder=tmp_path, access=access))
    yield TestClient(page_app(service, title="Bells"))
    service.store.close()


def test_the_page_needs_no_token_and_what_it_asks_for_does(client: Any) -> None:
    assert client.get("/v1/models").status_code == 401
    page = client.get("/")
    assert "<h1>Bells</h1>" in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    script = client.get("/page/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    for answer in (page, script):
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_nothing_but_its_files_is_there(client: Any) -> None:
    for path in ("/page/index.html", "/page/../routes.py", "/page/%2e%2e/routes.py", "/page/", "/page"):
        assert client.get(path).status_code in (401, 404), path


def test_a_browser_that_has_a_file_is_not_sent_it_again(client: Any) -> None:
    first = client.get("/page/page.css")
    again = client.get("/page/page.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_addresses_of_the_page_are_not_part_of_the_api(client: Any) -> None:
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "page" in path or path == "/"]
