"""Model lists. Any model name is answered; these are for clients that ask first."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

_NAME: Final = "hutch-offline"


def models(request: Request) -> dict[str, Any]:
    """``GET /v1/models``, a path that Anthropic, OpenAI and Codex each give a shape of its own."""
    if "anthropic-version" in request.headers:
        created = "2026-01-01T00:00:00Z"
        model = {"type": "model", "id": _NAME, "display_name": _NAME, "created_at": created}
        return {"data": [model], "has_more": False, "first_id": _NAME, "last_id": _NAME}
    if "client_version" in request.query_params:  # Codex; empty leaves it its built-in list
        return {"models": []}
    data = [{"id": _NAME, "object": "model", "created": 1767225600, "owned_by": "hutch"}]
    return {"object": "list", "data": data}


def gemini_models() -> dict[str, Any]:
    model = {
        "name": f"models/{_NAME}",
        "displayName": _NAME,
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    return {"models": [model]}
