"""What `deploy/` promises: nobody but the door has the engine's socket or a capability."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hutch.config import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
UNITS = {path.stem: path.read_text() for path in (DEPLOY / "systemd").glob("*.service")}


def test_the_socket_is_mounted_into_the_door_alone() -> None:
    extra = yaml.safe_load((DEPLOY / "compose.prod.yaml").read_text())["services"]
    for name, service in [*SERVICES.items(), *extra.items()]:
        has = any("docker.sock" in volume for volume in service.get("volumes", ()))
        assert has == (name == "door"), name
        assert not service.get("privileged")


@pytest.mark.parametrize("name", SERVICES)
def test_what_each_container_may(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name != "door":
        assert "cap_add" not in service
        assert not service["user"].startswith("0")
    if name == "gateway":
        assert not any(volume.startswith("door:") for volume in service["volumes"])


@pytest.mark.parametrize("name", ["hutch", "hutch-gateway"])
def test_units_of_ordinary_users(name: str) -> None:
    unit = UNITS[name]
    assert re.search(r"^CapabilityBoundingSet=$", unit, re.MULTILINE)
    assert re.search(rf"^User={name}$", unit, re.MULTILINE)
    assert "InaccessiblePaths=-/run/docker.sock" in unit
    assert "NoNewPrivileges=yes" in unit


def test_every_setting_in_there_is_one() -> None:
    known = {f"HUTCH_{name.upper()}" for name in Settings.model_fields}
    # The gateway's argument; names that only the compose files know.
    known |= {"HUTCH_GATEWAY_ADDRESS", "HUTCH_ENV", "HUTCH_SERVICE_IMAGE", "HUTCH_DOMAIN"}
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    found = {name for path in files for name in re.findall(r"HUTCH_[A-Z_]+", path.read_text())}
    assert found <= known
