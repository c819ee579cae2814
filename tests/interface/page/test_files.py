"""The page's files and what surrounds them, without a browser."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.interface.page.files import page_files
from stable_audio.interface.service import describe

SERVED = page_files("<b>A</b> & B")


def text(name: str) -> str:
    return SERVED[name].content.decode()


def scripts() -> Iterator[tuple[str, str]]:
    for name in SERVED:
        if name.endswith(".js"):
            yield name, text(name)


def test_the_title_is_no_markup() -> None:
    assert "<h1>&lt;b&gt;A&lt;/b&gt; &amp; B</h1>" in text("index.html")


def test_nothing_is_read_as_markup() -> None:
    for name, script in scripts():
        words = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|style="
        assert not re.findall(words, script), name
    assert not re.findall(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", text("index.html"))


def test_nothing_is_asked_of_other_machines() -> None:
    for name in SERVED:
        content = text(name).replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.findall(r"https?:|[\"'(]//", content), name


def test_what_the_page_names_exists() -> None:
    page = text("index.html")
    assert set(re.findall(r'(?:href|src)="page/([\w.]+)"', page)) == set(SERVED) - {"index.html"}
    for name, script in scripts():
        assert {other for other in re.findall(r"from '\./([\w.]+)'", script)} <= set(SERVED), name
    known = set(re.findall(r'id="([\w-]+)"', page))
    own = set(re.findall(r"id: '([\w-]+)'", "".join(script for _, script in scripts())))
    used = {id for _, script in scripts() for id in re.findall(r"(?<![.\w])get\('([\w-]+)'\)", script)}
    assert used <= known | own


def test_nothing_but_one_style_delays_the_first_paint() -> None:
    head, _ = text("index.html").split("</head>")
    assert re.findall(r'rel="stylesheet" href="([^"]*)"', head) == ["page/page.css"]
    assert re.findall(r"<script ([^>]*)>", head) == [
        'type="module" src="page/main.js"'
    ]  # not before the page
    assert "--mark:" in text("page.css")  # the theme of all pages


def test_every_sampler_is_explained() -> None:
    assert set(re.findall(r"^  '([\w-]+)': '", text("words.js"), re.MULTILINE)) == set(SAMPLERS)


def test_every_kind_of_conditioner_has_a_control() -> None:
    told = {"integer", "choice", *re.findall(r'"kind": "(\w+)"', inspect.getsource(describe))}
    (kinds,) = re.findall(r"^const KINDS = \{ (.*) \};$", text("controls.js"), re.MULTILINE)
    assert {entry.split(":")[0] for entry in kinds.split(", ") if "=>" in entry or ":" not in entry} >= told
