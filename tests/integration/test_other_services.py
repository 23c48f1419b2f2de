"""Services that are set up otherwise: with plain containers, and with no model API in reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.service import Service, User, fingerprint, running_service, tool_result

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(scope="module")
def runc(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("runc")
    with running_service(directory, ISOLATION="runc", IMAGE=image) as running:
        yield running


@pytest.fixture(scope="module")
def user_of_runc(runc: Service) -> User:
    return runc.make_user()


@each_provider
def test_a_session_under_runc(user_of_runc: User, provider: Provider) -> None:
    user = user_of_runc
    run = user.run(provider, f"[[tool:write /workspace/{provider}.txt {provider} was here]]")
    assert run["state"] == "succeeded", run
    container = user.client.container()
    assert container["isolation"] == "runc"
    workspace, home, tmp = container["quotas"]["disk"]
    limits = [(disk["limit_bytes"] >> 20, disk["limit_files"]) for disk in (workspace, home, tmp)]
    assert limits == [(60, 60 << 10), (40, 40 << 10), (64, 64 << 10)]
    assert 0 < workspace["used_bytes"] < workspace["limit_bytes"]
    assert 0 < workspace["used_files"] < workspace["limit_files"]
    shown = user.run(
        provider, f"[[tool:shell cat /workspace/{provider}.txt]]", session_id=run["session_id"]
    )
    assert f"{provider} was here" in tool_result(shown["text"])
    assert f"key={fingerprint(user.provider_keys[provider])} " in shown["text"]


def test_the_weaker_isolation_is_said_loudly(runc: Service) -> None:
    assert "isolation.weak" in runc.log("api")
    assert "WITHOUT gVisor" in runc.log("api")


@pytest.fixture(scope="module")
def modelless(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its model API is an address where nobody listens."""
    nowhere = {f"{provider.upper()}_BASE_URL": "http://127.0.0.1:9" for provider in PROVIDERS}
    directory = tmp_path_factory.mktemp("modelless")
    with running_service(directory, ISOLATION="gvisor", IMAGE=image, **nowhere) as running:
        yield running


@pytest.fixture(scope="module")
def user_without_model(modelless: Service) -> User:
    return modelless.make_user()


@each_provider
def test_a_model_out_of_reach(user_without_model: User, provider: Provider) -> None:
    run = user_without_model.run(provider, "is anybody there?", timeout_s=40)
    assert (run["state"], run["error"]["code"]) == ("failed", "provider_unreachable")
