"""`stable-audio watch`: a page with the runs of a folder, live or over."""

from __future__ import annotations

import argparse

HELP = "a page with all runs of a folder: curves, demos, differences, and which of them stalled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUNS", nargs="*", help="folders with runs, or runs (runs)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this machine"
    )
    parser.add_argument("--port", type=int, default=8686, help="port to listen at; 0: any that is free")


def run(args: argparse.Namespace) -> int:
    from stable_audio.interface.hosts import is_loopback
    from stable_audio.interface.watch.server import open_server

    with open_server(args.folders or ["runs"], host=args.host, port=args.port) as server:
        if not is_loopback(args.host):
            print(f"everyone who can reach {args.host} can see these runs")
        print(f"open {server.url}    (Ctrl-C ends)", flush=True)
        server.serve_forever()
    return 0
