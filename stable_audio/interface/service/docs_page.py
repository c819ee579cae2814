"""The OpenAPI description as a page that needs nothing but itself."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:960px;padding:0 1em;color:#222}
body{background:#fff}
h2{margin-top:2em;font-size:1.1em}code{font:13px/1.4 ui-monospace,monospace}
table{border-collapse:collapse;width:100%}
td{padding:.25em .6em .25em 0;border-top:1px solid #ddd;vertical-align:top}
td:first-child{white-space:nowrap}.method{font-weight:600;margin-right:.6em}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}td{border-color:#333}a{color:#9bf}}
"""


def docs_page(schema: Mapping[str, Any]) -> str:
    """A page of an OpenAPI description."""
    info = schema["info"]
    parts = [
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>",
        f"<p>{_text(info.get('description', ''))}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(schema, path, method, operation))
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{_text(info["title"])}: HTTP API</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def _operation(schema: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = [
        (entry["name"], entry["schema"], entry.get("description", ""))
        for entry in operation.get("parameters", ())
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        body = _resolved(schema, content["schema"])
        rows += [(name, part, part.get("description", "")) for name, part in body["properties"].items()]
    answers = [(code, told.get("description", "")) for code, told in operation["responses"].items()]
    return (
        f'<h2 id="{_text(operation.get("operationId", ""))}"><span class="method">{method.upper()}</span>'
        f"<code>{_text(path)}</code></h2><p>{_text(operation.get('summary', ''))}. "
        f"{_text(operation.get('description', ''))}</p>{_table(_fields(schema, rows))}"
        f"<details><summary>answers</summary>{_table(answers)}</details>"
    )


def _fields(schema: Mapping[str, Any], rows: list[tuple[str, Any, str]]) -> Iterator[tuple[str, str]]:
    for name, part, description in rows:
        default = part.get("default")
        told = "" if default in (None, "") else f" Default: {default}."
        yield name, f"{_kind(schema, part)}. {description}{told}"


def _kind(schema: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """The type of a value in words."""
    if "$ref" in part:
        properties = _resolved(schema, part).get("properties", {})
        return "object with " + ", ".join(properties)
    if "anyOf" in part:
        return " or ".join(k for p in part["anyOf"] if (k := _kind(schema, p)) != "null")
    if "enum" in part:
        return " | ".join(map(str, part["enum"]))
    if part.get("type") == "array":
        return f"list of {_kind(schema, part.get('items', {}))}"
    return str(part.get("type", "any value"))


def _resolved(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref")
    resolved: Mapping[str, Any] = (
        part if reference is None else schema["components"]["schemas"][reference.rpartition("/")[2]]
    )
    return resolved


def _table(rows: Any) -> str:
    cells = "".join(f"<tr><td><code>{_text(a)}</code></td><td>{_text(b)}</td></tr>" for a, b in rows)
    return f"<table>{cells}</table>" if cells else ""


def _text(value: Any) -> str:
    return html.escape(str(value))
