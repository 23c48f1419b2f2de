"""A session as one would read it: what was asked, said and done, without how it came in pieces.

Pure but for what it reads; nothing longer than a few events is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from hutch.runs.models import LogEntry, Run, Session
from hutch.runs.sessions import Told
from hutch_runtime.protocol import FIELD_MAX_BYTES

_JOINED_MAX: Final = FIELD_MAX_BYTES  # characters of pieces that are put together
_TICKS: Final = re.compile(r"`+")

Item = dict[str, Any]


async def items(entries: AsyncIterator[LogEntry]) -> AsyncIterator[Item]:
    """``text``, ``reasoning``, ``tool`` (with its outcome, or ``ok`` null if it has none) and
    ``plan``, in the order of their ends.
    """
    text, reasoning = "", ""
    tools: dict[str, Item] = {}
    async for entry in entries:
        data = entry.data
        if entry.type == "text.delta":
            text = (text + data["text"])[:_JOINED_MAX]
        elif entry.type == "reasoning.delta":
            reasoning = (reasoning + data["text"])[:_JOINED_MAX]
        elif entry.type in {"text", "tool.started", "plan", "run.finished"} and reasoning:
            yield {"type": "reasoning", "text": reasoning}
            reasoning = ""
        match entry.type:
            case "text":
                yield {"type": "text", "text": data["text"]}
                text = ""
            case "tool.started":
                tools[data["tool_id"]] = {
                    "type": "tool",
                    "kind": data["kind"],
                    "name": data["name"],
                    "input": data["input"],
                    "ok": None,
                    "output": "",
                }
            case "tool.output" if data["tool_id"] in tools:
                tool = tools[data["tool_id"]]
                tool["output"] = (tool["output"] + data["text"])[:_JOINED_MAX]
            case "tool.finished" if data["tool_id"] in tools:
                tool = tools.pop(data["tool_id"])
                yield {**tool, "ok": data["ok"], "output": data["output"] or tool["output"]}
            case "plan":
                yield {"type": "plan", "items": data["items"]}
            case _:
                pass
    for tool in tools.values():
        yield tool
    if reasoning:
        yield {"type": "reasoning", "text": reasoning}
    if text:  # broken off
        yield {"type": "text", "text": text}


async def as_json(session: Session, told: AsyncIterator[Told]) -> AsyncIterator[str]:
    """``{"session": {…}, "runs": [{…, "items": […]}]}``, piece by piece."""
    yield f'{{"session":{_dump(_session(session))},"runs":['
    first = True
    async for run, entries in told:
        head = _dump(_run(run))
        yield f'{"" if first else ","}{head[:-1]},"items":['
        first, comma = False, ""
        async for item in items(entries):
            yield comma + _dump(item)
            comma = ","
        yield "]}"
    yield "]}\n"


async def as_markdown(session: Session, told: AsyncIterator[Told]) -> AsyncIterator[str]:
    yield f"# {session.name or session.id}\n\n"
    yield f"{session.provider}, begun {_time(session.created_at)}\n"
    async for run, entries in told:
        yield f"\n## {_time(run.created_at)}\n\n{_quoted(run.prompt)}\n"
        for attachment in run.attachments or []:
            yield f"\nAttached: {_inline(attachment['name'])}\n"
        async for item in items(entries):
            yield _written(item)
        yield _ending(run)


def _written(item: Item) -> str:
    match item["type"]:
        case "text":
            return f"\n{item['text']}\n"
        case "reasoning":
            return (
                f"\n<details><summary>Reasoning</summary>\n\n{_fenced(item['text'])}\n</details>\n"
            )
        case "plan":
            marks = {"completed": "x", "in_progress": "-", "pending": " "}
            lines = [f"- [{marks[one['status']]}] {one['text']}" for one in item["items"]]
            return "\n" + "\n".join(lines) + "\n"
        case _:
            how = {True: "", False: " (failed)", None: " (not finished)"}[item["ok"]]
            said = f"\n**{item['kind']}** {_inline(item['name'])}{how}\n\n"
            said += _fenced(json.dumps(item["input"], ensure_ascii=False, indent=2), "json")
            return said + (f"\n{_fenced(item['output'])}" if item["output"] else "")


def _ending(run: Run) -> str:
    if run.state == "succeeded":
        return "" if run.stop_reason == "end_turn" else f"\n*Ended: {run.stop_reason}*\n"
    if run.state == "failed":
        return f"\n*Failed: {run.error_code}: {run.error_message}*\n"
    return f"\n*{run.state.capitalize()}*\n"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _fenced(text: str, language: str = "") -> str:
    """In a fence that is longer than any in it."""
    longest = max((len(ticks) for ticks in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def _inline(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _session(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "name": session.name,
        "provider": session.provider,
        "forked_from": session.forked_from,
        "created_at": _time(session.created_at),
        "last_used_at": _time(session.last_used_at),
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "prompt": run.prompt,
        "attachments": run.attachments or [],
        "model": run.model,
        "state": run.state,
        "stop_reason": run.stop_reason,
        "error": {"code": run.error_code, "message": run.error_message or ""}
        if run.error_code
        else None,
        "usage": run.usage,
        "created_at": _time(run.created_at),
        "finished_at": _time(run.finished_at) if run.finished_at is not None else None,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
