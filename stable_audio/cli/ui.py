"""`stable-audio ui`: a page to play with models, on the service."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from stable_audio.audio.writable import require_folder
from stable_audio.characters import refuse
from stable_audio.cli import serve
from stable_audio.cli.importing import importing

if TYPE_CHECKING:
    from fastapi import FastAPI

    from stable_audio.interface.service.service import Service

HELP = "open a page on which to generate, hear, edit and keep sounds"

DEADLINE = 86400.0
"""Seconds after which a job is given up: a person sees that it takes long, and can stop it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--title", default="Stable Audio", help="heading of the page (%(default)s)")
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="open no browser; without, one is opened where there is a desktop",
    )
    serve.add_arguments(parser, deadline=f"{DEADLINE:g}")
    parser.set_defaults(deadline=DEADLINE)


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.interface.page.opening import has_screen, open_soon
        from stable_audio.interface.service.serving import serve as run_service

    refuse(args.title, "--title")
    require_folder(args.out)
    settings = serve.settings_of(args)
    serve.warn_if_open(args, settings)

    def started(address: str) -> None:
        print(f"listening on {address}, where the page is", file=sys.stderr, flush=True)
        if not args.no_browser and has_screen():
            open_soon(address)

    def app(service: Service) -> FastAPI:
        from stable_audio.interface.page.routes import page_app

        return page_app(service, title=args.title)

    run_service(settings, host=args.host, port=args.port, app=app, started=started)
    return 0
