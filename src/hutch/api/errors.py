"""The one place where an error becomes an HTTP answer: ``{"error": {code, message, hint}}``, or
what the protocol of the endpoint has in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hutch import errors
from hutch.api.compat.dialects import error_body, error_model
from hutch.api.refusal import Refusal

_log = structlog.get_logger()
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

# The first match counts, so a class stands before its base.
_STATUS: Final[tuple[tuple[type[errors.HutchError], int], ...]] = (
    (errors.PromptTooLarge, 413),
    (errors.FileTooLarge, 413),
    (errors.InvalidRange, 416),
    (errors.PreconditionFailed, 412),
    (errors.InvalidRequest, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.CredentialMissing, 422),
    (errors.GitAuthFailed, 422),
    (errors.RepositoryTooLarge, 413),
    (errors.GitTimeout, 504),
    (errors.GitFailed, 502),
    (errors.CredentialRejected, 422),
    (errors.NeedsLogin, 422),
    (errors.QueueFull, 429),
    (errors.TooManyFailures, 429),
    (errors.TooManyUses, 429),
    (errors.StorageFull, 507),
    (errors.Unavailable, 503),
)

# Of what the framework refuses before a route is reached.
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


def body(
    code: str, message: str, hint: str = "", *, status: int = 500, path: str = ""
) -> dict[str, Any]:
    """``path``: of the request, if its endpoint may speak another protocol; ``status`` then."""
    return error_body(path, Refusal(status, code, message, hint))


def refused(
    request: Request, refusal: Refusal, *, headers: Mapping[str, str] = _NO_HEADERS
) -> JSONResponse:
    request.state.code = refusal.code  # for the audit log
    return JSONResponse(
        error_body(request.url.path, refusal),
        status_code=refusal.status,
        headers={**refusal.headers, **headers},
    )


def documented(path: str) -> dict[int | str, dict[str, Any]]:
    """What the endpoints below a path may answer instead of their own answers, for the OpenAPI
    document.
    """
    by_status: dict[int, set[str]] = {500: {errors.HutchError.code}}
    for kind, status in _STATUS:
        by_status.setdefault(status, set()).add(kind.code)
    for status, code in _CODES.items():
        by_status.setdefault(status, set()).add(code)
    return {
        status: {"model": error_model(path), "description": f"Codes: {', '.join(sorted(codes))}, …"}
        for status, codes in sorted(by_status.items())
    }


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.HutchError, _hutch)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _hutch(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.HutchError)  # noqa: S101  registered for nothing else
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, errors.QueueFull | errors.TooManyFailures):
        headers = {"retry-after": str(error.retry_after_s)}
    param = error.param if isinstance(error, errors.UnsupportedParameter) else None
    return refused(request, Refusal(status, error.code, error.message, error.hint, param, headers))


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for nothing else
    # The place and the complaint, never the input: it may hold a key.
    places = [
        ".".join(str(part) for part in problem["loc"] if part != "body")
        for problem in error.errors()
    ]
    problems = [
        f"{place or 'body'}: {problem['msg']}"
        for place, problem in zip(places, error.errors(), strict=True)
    ]
    return refused(
        request,
        Refusal(
            400,
            "invalid_request",
            "; ".join(problems)[:2000],
            "See /docs for each field.",
            param=places[0][:100] or None,
        ),
    )


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for nothing else
    code = _CODES.get(error.status_code, "invalid_request")
    hint = "See /docs for the paths and methods."
    return refused(
        request,
        Refusal(error.status_code, code, str(error.detail), hint, headers=error.headers or {}),
    )


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("request.failed", error=type(error).__name__)
    message = "Something went wrong inside Hutch."
    return refused(request, Refusal(500, "internal", message, "The log of the service says what."))
