"""The one place where an error becomes an HTTP answer: ``{"error": {code, message, hint}}``."""

from __future__ import annotations

from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hutch import errors

_log = structlog.get_logger()

# The first match counts, so a class stands before its base.
_STATUS: Final[tuple[tuple[type[errors.HutchError], int], ...]] = (
    (errors.PromptTooLarge, 413),
    (errors.InvalidRequest, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.CredentialMissing, 422),
    (errors.CredentialRejected, 422),
    (errors.NeedsLogin, 422),
    (errors.QueueFull, 429),
    (errors.TooManyFailures, 429),
    (errors.StorageFull, 507),
    (errors.Unavailable, 503),
)

# Of what the framework refuses before a route is reached.
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


def body(code: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint}}


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.HutchError, _hutch)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _hutch(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.HutchError)  # noqa: S101  registered for nothing else
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, errors.QueueFull | errors.TooManyFailures):
        headers = {"retry-after": str(error.retry_after_s)}
    return JSONResponse(
        body(error.code, error.message, error.hint), status_code=status, headers=headers
    )


async def _validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for nothing else
    # The place and the complaint, never the input: it may hold a key.
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'] if part != 'body') or 'body'}: "
        f"{problem['msg']}"
        for problem in error.errors()
    ]
    return JSONResponse(
        body("invalid_request", "; ".join(problems)[:2000], "See /docs for each field."),
        status_code=400,
    )


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for nothing else
    code = _CODES.get(error.status_code, "invalid_request")
    return JSONResponse(
        body(code, str(error.detail), "See /docs for the paths and methods."),
        status_code=error.status_code,
        headers=error.headers,
    )


async def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    _log.error("request.failed", error=type(error).__name__)
    return JSONResponse(
        body("internal", "Something went wrong inside Hutch.", "The log of the service says what."),
        status_code=500,
    )
