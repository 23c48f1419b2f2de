"""Keys are planted everywhere, and looked for where none may be: logs, tables, process lists."""

from __future__ import annotations

import httpx2
from sqlalchemy import create_engine, select

from hutch.cli.leaks import in_process_lists
from hutch.store.open import parse
from hutch.store.tables import metadata
from tests.service import Service

# What a user asks and is answered is theirs, and is stored as it is.
_THEIRS = frozenset({"runs", "run_events", "sessions", "webhook_deliveries"})


def rows(service: Service) -> dict[str, bytes]:
    """All that is in each table, in words."""
    engine = create_engine(parse(service.settings.database))
    try:
        with engine.connect() as connection:
            return {
                name: repr(connection.execute(select(table)).all()).encode()
                for name, table in metadata.tables.items()
            }
    finally:
        engine.dispose()


def test_no_planted_key_is_where_none_may_be(service: Service) -> None:
    user = service.make_user()
    number = 0

    def canary(shape: str) -> str:
        nonlocal number
        number += 1
        return shape.format(f"c4nary{number:02}{user.id[5:]}")

    planted: dict[str, str] = {f"key of {p}": key for p, key in user.provider_keys.items()}
    # In what users say, and agents print.
    for provider in user.provider_keys:
        text = planted[f"prompt of {provider}"] = canary("sk-ant-api03-{}")
        # Streamed: on a busy machine a first answer is later than a client waits in silence.
        user.client.execute(provider, f"my key is {text}, keep it")
    shell = planted["command"] = canary("ghp_{}")
    user.client.execute("claude", f"[[tool:shell echo {shell}]]")
    # In what fails: paths, queries, headers, bodies that are no JSON, keys that are none.
    with httpx2.Client(base_url=service.url, trust_env=False) as http:
        own = {"authorization": f"Bearer {user.key}"}
        for name, status, request in (
            ("wrong key", 401, {"headers": {"authorization": canary("Bearer hutch_user_{}")}}),
            ("basic", 401, {"headers": {"authorization": canary("Basic {}")}}),
            ("cookie", 200, {"headers": {**own, "cookie": canary("session={}")}}),
            ("query", 200, {"headers": own, "params": {"key": canary("AIza{}")}}),
            ("wrong user", 403, {"headers": {**own, "x-hutch-user": canary("user_{}")}}),
        ):
            planted[name] = str(request)[str(request).index("c4nary") :][:28]
            assert http.get("/v1/runs", **request).status_code == status, name  # type: ignore[arg-type]
        path = planted["path"] = canary("sk-proj-{}")
        assert http.delete(f"/v1/sessions/{path}", headers=own).status_code == 404
        broken = planted["broken body"] = canary("rt_{}")
        sent = http.post("/v1/runs", headers=own, content=f'{{"prompt": "{broken}')
        assert sent.status_code == 400
        assert broken not in sent.text
        wrong = planted["field that is not there"] = canary("xoxb-{}")
        assert http.put("/v1/credentials/codex", headers=own, json={"k": wrong}).status_code == 400
    # In what an operator stores.
    password = planted["exit's password"] = canary("pw-{}")
    lines = {"text": f"proxy.example.org:8080:someone:{password}"}
    service.admin.call("POST", "/v1/admin/exits/import", json=lines)
    (added,) = [
        one
        for one in service.admin.call("GET", "/v1/admin/exits")["exits"]
        if one["host"] == "proxy.example.org"
    ]
    service.admin.call("DELETE", f"/v1/admin/exits/{added['id']}")
    further = user.client.call("POST", "/v1/keys", json={"name": "further"})
    planted["a key of Hutch's"] = further["key"]
    planted["the user's key"] = user.key
    planted["the admin key"] = service.admin_key
    planted["the secret"] = (service.settings.data_dir / "secret").read_text().strip()
    secrets = {name: text.encode() for name, text in planted.items()}

    logs = {
        part: (service.settings.logs_dir / f"{part}.log").read_bytes()
        for part in ("api", "gateway")
    }
    assert user.id.encode() in logs["gateway"]  # the search is in the right place
    assert [f"{n} in {p}" for p, log in logs.items() for n, s in secrets.items() if s in log] == []
    tables = rows(service)
    assert planted["command"].encode() in tables["run_events"]
    for name, content in tables.items():
        found = [one for one, secret in secrets.items() if secret in content]
        if name in _THEIRS:
            found = [one for one in found if not one.startswith(("prompt of ", "command"))]
        assert found == [], name
    assert in_process_lists(secrets) == []
    shown = str(service.admin.call("GET", "/v1/admin/audit?limit=1000")).encode()
    assert user.id.encode() in shown
    assert [one for one, secret in secrets.items() if secret in shown] == []
    assert service.admin.call("GET", "/v1/admin/audit/verify")["intact"]
