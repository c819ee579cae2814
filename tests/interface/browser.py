"""A real browser for tests of pages; where there is none, tests are skipped with the reason."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, for many pages. Only one can be open in a process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    installed = next((path for name in NAMES if (path := shutil.which(name))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no browser is installed ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


@contextmanager
def browser_page(
    *,
    width: int = 1000,
    height: int = 800,
    scheme: str = "light",
    allow: tuple[str, ...] = ("file:",),
    refused: bool = False,
    browser: Any = None,
) -> Iterator[Any]:
    """A page of Chromium that fails the test if a script raises, or something is asked of anybody else.

    Args:
        width: of the window.
        height: of the window.
        scheme: light or dark.
        allow: what addresses may begin with.
        refused: whether answers with an error are part of the test; browsers tell each on the console.
        browser: as of `chromium`; None: one for this page.
    """
    with nullcontext(browser) if browser is not None else chromium() as opened:
        page = opened.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: wrong.append(told.text) if _is_wrong(told, refused) else None)
        page.on(
            "request",
            lambda request: None if request.url.startswith(allow) else wrong.append(f"asks {request.url}"),
        )
        yield page
        page.close()
    assert not wrong, "\n".join(wrong)


def _is_wrong(message: Any, refused: bool) -> bool:
    return message.type == "error" and not (refused and message.text.startswith("Failed to load resource"))


def fits(page: Any) -> bool:
    """Whether the page is as wide as its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def unnamed(page: Any) -> list[str]:
    """Controls that a screen reader could not name."""
    script = """[...document.querySelectorAll('button, input, select, canvas, iframe')]
      .filter(e => e.offsetParent && !(e.textContent.trim() || e.getAttribute('aria-label') || e.title
      || e.labels?.length
      || e.classList.contains('spark'))).map(e => e.outerHTML)"""
    return list(page.evaluate(script))


def until(page: Any, expression: str, *, seconds: float = 15) -> None:
    """Wait until an expression in the page is true. Playwright's own way evaluates texts in the page, which
    its security policy refuses."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(30)
