"""``/docs``: the API's own description as one page that loads nothing and runs nothing.

No library draws it: that would be a script of others' where people have their keys at hand. What
folds is a browser's own ``<details>``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

_STYLE: Final = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre,summary b{font-family:ui-monospace,monospace;font-size:.9em}
pre{overflow-x:auto;padding:.6rem;border:1px solid #8886;border-radius:.3rem}
details{border:1px solid #8886;border-radius:.3rem;margin:.4rem 0;padding:0 .8rem}
summary{cursor:pointer;padding:.4rem 0}
summary i{opacity:.75;font-style:normal}
table{border-collapse:collapse;width:100%;margin:.4rem 0 1rem}
td,th{border-top:1px solid #8886;padding:.25rem .6rem .25rem 0;text-align:left;vertical-align:top}
h3{margin:.8rem 0 0;font-size:1em}
nav a{margin-right:.8rem}
"""
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_CODE: Final = re.compile(r"`([^`]+)`")
_Json = Mapping[str, Any]


def install(app: FastAPI) -> None:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{digest}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )

    @functools.cache
    def page() -> HTMLResponse:
        html = "".join(_page(app.openapi()))
        return HTMLResponse(html, headers={"content-security-policy": policy})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page()


def _page(described: _Json) -> Iterator[str]:
    info = described["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
    yield f"<p>{escape(info['summary'])}</p>"
    yield "<p>Send a key with each request, <code>Authorization: Bearer hutch_…</code>. This is "
    yield '<a href="/openapi.json">the OpenAPI document</a>, drawn.</p><nav>'
    tagged = _by_tag(described["paths"])
    for tag in tagged:
        yield f'<a href="#{_anchor("tag", tag)}">{escape(tag)}</a>'
    yield '<a href="#schemas">shapes</a></nav>'
    for tag, operations in tagged.items():
        yield f'<h2 id="{_anchor("tag", tag)}">{escape(tag)}</h2>'
        for method, path, operation in operations:
            yield from _operation(method, path, operation)
    yield '<h2 id="schemas">Shapes</h2>'
    for name, schema in sorted(described["components"]["schemas"].items()):
        yield f'<details id="{_anchor("shape", name)}"><summary><b>{escape(name)}</b></summary>'
        yield _prose(schema.get("description", ""))
        yield from _fields(schema)
        yield "</details>"
    yield "</body></html>"


def _by_tag(paths: _Json) -> dict[str, list[tuple[str, str, _Json]]]:
    found: dict[str, list[tuple[str, str, _Json]]] = {}
    for path, methods in paths.items():
        for method in _METHODS:
            if method in methods:
                tag = next(iter(methods[method].get("tags", ())), "others")
                found.setdefault(tag, []).append((method, path, methods[method]))
    return found


def _operation(method: str, path: str, operation: _Json) -> Iterator[str]:
    said = operation.get("description") or operation.get("summary", "")
    first = said.split("\n\n")[0].replace("\n", " ")
    yield f'<details id="{_anchor("to", operation["operationId"])}"><summary>'
    yield f"<b>{method.upper()} {escape(path)}</b> <i>{_inline(first)}</i></summary>"
    yield _prose(said)
    parameters = operation.get("parameters", ())
    if parameters:
        yield "<h3>Parameters</h3><table>"
        for one in parameters:
            schema = one.get("schema", {})
            about = one.get("description") or schema.get("description", "")
            what = f"{one['in']}, {_type(schema)}"
            yield _row(one["name"], what, about, required=one.get("required", False))
        yield "</table>"
    body = operation.get("requestBody", {}).get("content", {})
    for kind, held in body.items():
        yield f"<h3>Body</h3><p><code>{escape(kind)}</code> {_type(held.get('schema', {}))}</p>"
    yield "<h3>Answers</h3><table>"
    for status, answer in operation["responses"].items():
        shapes = {
            f"<code>{escape(kind)}</code> {_type(held.get('schema', {}))}"
            for kind, held in answer.get("content", {}).items()
        }
        about = answer.get("description", "")
        yield f"<tr><td><code>{escape(status)}</code></td><td>{'<br>'.join(sorted(shapes))}</td>"
        yield f"<td>{'' if about == 'Successful Response' else _inline(about)}</td></tr>"
    yield "</table></details>"


def _fields(schema: _Json) -> Iterator[str]:
    properties = schema.get("properties")
    if not properties:
        yield f"<p>{_type(schema)}</p>"
        return
    yield "<table>"
    for name, held in properties.items():
        about = held.get("description", "")
        if held.get("default") not in (None, "", []):
            about = f"{about} Default: `{held['default']}`.".strip()
        yield _row(name, _type(held), about, required=name in schema.get("required", ()))
    yield "</table>"


def _row(name: str, what: str, about: str, *, required: bool) -> str:
    """``what`` is HTML."""
    needed = " (required)" if required else ""
    return (
        f"<tr><td><code>{escape(name)}</code>{needed}</td><td>{what}</td>"
        f"<td>{_inline(about)}</td></tr>"
    )


def _type(schema: _Json) -> str:
    """As HTML, with a link to a shape that has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor("shape", name)}">{escape(name)}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[several])))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return escape(str(schema.get("type", "any")))


def _prose(text: str) -> str:
    parts = (part.replace("\n", " ").strip() for part in text.split("\n\n"))
    return "".join(f"<p>{_inline(part)}</p>" for part in parts if part)


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _anchor(kind: str, name: str) -> str:
    return f"{kind}-{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}"
