"""Requests made up from the OpenAPI document, as a user and as an admin: no endpoint answers with a
failure of its own, with a status or a shape that the document does not have.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.security.conftest import Attempt
from tests.service import Service, running_service

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

# Of each endpoint; `make fuzz` takes more.
EXAMPLES = int(os.environ.get("HUTCH_TEST_EXAMPLES", "6"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Each takes seconds, for it makes a container or an image; how they answer is tested elsewhere.
SLOW = {
    ("PUT", "/v1/container"),
    ("POST", "/v1/container/hibernate"),
    ("POST", "/v1/admin/containers/hibernate"),
    ("POST", "/v1/admin/maintain"),
    ("POST", "/v1/credentials/{provider}/login"),
    ("POST", "/v1/credentials/{provider}/test"),  # asks the provider
    ("PUT", "/v1/credentials/{provider}"),  # the same, with verify
}


@pytest.fixture(scope="module")
def service(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Thrown away: an admin deletes all that there is."""
    folder: Path = tmp_path_factory.mktemp("schema")
    with running_service(folder, ISOLATION="runc", IMAGE=image, PREWARM="codex") as one:
        yield one


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("who", ["user", "admin"])
def test_no_answer_that_is_not_in_the_document(
    service: Service, who: str, attempt: Attempt
) -> None:
    key = service.make_user(credentials=False).key if who == "user" else service.admin_key
    headers = {"Authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    asked, failed = 0, []
    for found in schema.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]  # an error would be an error
        if (operation.method.upper(), operation.path) in SLOW:
            continue
        if operation.path.startswith("/v1/admin") != (who == "admin"):
            continue

        def check(case: Any) -> None:
            nonlocal asked
            asked += 1
            response = case.call(base_url=service.url, headers=headers, timeout=20)
            # /readyz and what needs the gateway may say that a part is missing: it is documented.
            checks = CHECKS if response.status_code not in {503, 507} else CHECKS[1:]
            case.validate_response(response, checks=checks)

        bounded = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        try:
            seed(1)(bounded(given(case=operation.as_strategy())(check)))()
        except Exception as error:  # noqa: BLE001  each endpoint is told, not the first alone
            failed.append(f"{operation.method.upper()} {operation.path}: {str(error)[:1500]}")
    attempt.tries = f"requests made up from the OpenAPI document, as {who}"
    attempt.came = f"{asked} requests, none answered with a failure of the service"
    assert failed == [], "\n\n".join(failed)
    assert asked > 40
