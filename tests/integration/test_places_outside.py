"""Places outside that a user has secrets for, MCP servers and git hosts, from a gVisor sandbox in
which those secrets are not.
"""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hutch.client import ClientError
from hutch_runtime.protocol import PROVIDERS, Provider
from tests.integration.git_host import TOKEN, GitHost, serving
from tests.service import Service, User, running_service

OUTSIDE = "127.0.0.89"  # stands for a host on the internet
SECRET = "s3cret-of-the-users-tickets-5f0c"
SHOUT = '[[tool:mcp {} shout {{"text": "ahoy"}}]]'

# A whole MCP server over stdio; HANGS makes it one that never answers.
SERVER = """
import json, os, sys, time
TOOL = {"name": "shout", "description": "Say it louder", "inputSchema":
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}
for line in sys.stdin:
    if "HANGS" in os.environ:
        time.sleep(600)
    asked = json.loads(line)
    if "id" not in asked:
        continue
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities":
                  {"tools": {}}, "serverInfo": {"name": "notes", "version": "1"}}
    elif asked["method"] == "tools/list":
        result = {"tools": [TOOL]}
    elif asked["method"] == "tools/call":
        said = asked["params"]["arguments"]["text"].upper() + " " + os.environ.get("MARK", "")
        result = {"content": [{"type": "text", "text": said}]}
    else:
        result = {}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""

# Everywhere that an agent's user can look: files, environments, arguments and what is in memory.
SEARCH = """
import json, os, sys
wanted = json.load(sys.stdin).encode()
found = []
def look(path):
    try:
        with open(path, "rb") as file:
            if wanted in file.read(64 << 20):
                found.append(path)
    except OSError:
        pass
for top in ("/home", "/workspace", "/tmp", "/etc", "/opt/hutch", "/run", "/var"):
    for folder, _, names in os.walk(top):
        for name in names:
            look(os.path.join(folder, name))
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        look(f"/proc/{pid}/{name}")
    try:
        spans = [line.split()[0].split("-") for line in open(f"/proc/{pid}/maps") if " rw" in line]
        memory = open(f"/proc/{pid}/mem", "rb", 0)
    except OSError:
        continue
    if int(pid) == os.getpid():
        continue
    for begin, end in spans:
        try:
            memory.seek(int(begin, 16))
            if wanted in memory.read(int(end, 16) - int(begin, 16)):
                found.append(f"/proc/{pid}/mem")
        except (OSError, ValueError, OverflowError):
            pass
print(json.dumps(found))
"""


@dataclass
class Tickets:
    """An MCP server over streamable HTTP that wants a token."""

    url: str = ""
    authorizations: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def tickets() -> Iterator[Tickets]:
    told = Tickets()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.authorizations.append(self.headers["authorization"] or "")
            if told.authorizations[-1] != f"Bearer {SECRET}":
                self._answer(401, None)
            elif "id" not in body:
                self._answer(202, None)
            else:
                self._answer(200, {"jsonrpc": "2.0", "id": body["id"], "result": _result(body)})

        def do_GET(self) -> None:
            self._answer(405, None)  # it has nothing to say by itself

        def _answer(self, status: int, body: Any) -> None:
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not into the tests' output."""

    server = http.server.ThreadingHTTPServer((OUTSIDE, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told.url = f"http://{OUTSIDE}:{server.server_port}/mcp?team=7"
    yield told
    server.shutdown()
    server.server_close()


def _result(asked: dict[str, Any]) -> dict[str, Any]:
    match asked["method"]:
        case "initialize":
            version = asked["params"]["protocolVersion"]
            info = {"name": "tickets", "version": "1"}
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            schema = {"type": "object", "properties": {"text": {"type": "string"}}}
            return {"tools": [{"name": "shout", "description": "Louder", "inputSchema": schema}]}
        case "tools/call":
            said = asked["params"]["arguments"]["text"].upper() + " from afar"
            return {"content": [{"type": "text", "text": said}]}
        case _:
            return {}


@pytest.fixture(scope="module")
def git_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    with (
        pytest.MonkeyPatch.context() as environment,
        serving(tmp_path_factory.mktemp("git"), OUTSIDE) as host,
    ):
        environment.setenv("SSL_CERT_FILE", str(host.certificate))  # that the gateway trusts
        yield host


@pytest.fixture(scope="module")
def service(
    image: str, git_host: GitHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    assert git_host
    with running_service(
        tmp_path_factory.mktemp("mcp"),
        ISOLATION="gvisor",
        IMAGE=image,
        EGRESS_NETWORKS=f"{OUTSIDE}/32",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def user(service: Service) -> User:
    made = service.make_user()
    made.run("claude", "[[tool:write /workspace/notes.py nothing]]")  # its agents are warm now
    return made


def put(user: User, name: str, **body: Any) -> None:
    user.client.call("PUT", f"/v1/mcp-servers/{name}", json=body)


def called(user: User, provider: Provider, server: str, **options: Any) -> dict[str, Any]:
    """The tool's events, from what the run's log says."""
    run = user.run(provider, SHOUT.format(server), **options)
    assert run["state"] == "succeeded", run
    events = list(user.client.follow(run["id"]))
    started = [event for event in events if event["type"] == "tool.started"]
    finished = [event for event in events if event["type"] == "tool.finished"]
    assert [event["kind"] for event in started] == ["mcp"], events
    assert server in started[0]["name"]
    return {**finished[0], "run": run, "types": {event["type"] for event in events}}


def test_all_three_call_both_and_the_secret_stays_outside(user: User, tickets: Tickets) -> None:
    # Sessions that began without: they are to have the servers too, and to remember.
    sessions = {provider: user.run(provider, f"remember {provider}")["session_id"]
                for provider in PROVIDERS}  # fmt: skip
    put(user, "notes", command="python3", args=["-c", SERVER], env={"MARK": "inside"})
    put(user, "tickets", url=tickets.url, headers={"Authorization": f"Bearer {SECRET}"})
    for provider, session in sessions.items():
        near = called(user, provider, "notes", session_id=session)
        assert (near["ok"], "agent.restarted" in near["types"]) == (True, True)
        assert "AHOY inside" in near["output"]
        far = called(user, provider, "tickets", session_id=session)
        assert (far["ok"], "AHOY from afar" in far["output"]) == (True, True)
        recall = user.run(provider, "[[recall]]", session_id=session)
        assert f"remember {provider}" in recall["text"]
    assert set(tickets.authorizations) == {f"Bearer {SECRET}"}
    assert user.python(SEARCH, stdin=SECRET) == []
    assert user.python(SEARCH, stdin=OUTSIDE) == [], "not even where it is"
    assert user.python(SEARCH, stdin="AHOY inside") != [], "the search finds what is there"


def test_one_that_hangs_and_one_that_is_none_keep_no_run_from_its_end(user: User) -> None:
    put(user, "none", command="/no/such/program")
    put(user, "hangs", command="python3", args=["-c", SERVER], env={"HANGS": "1"})
    for provider in ("claude", "codex"):
        run = user.run(provider, "what now?", timeout_s=60)
        assert run["state"] == "succeeded", run
    # Gemini CLI waits a minute for it; that of this change ends while it still does.
    user.client.call("DELETE", "/v1/mcp-servers/hangs")
    run = user.run("gemini", "what now?", timeout_s=60)
    assert run["state"] == "succeeded", run


def refused(user: User, status: int, code: str, **asked: Any) -> None:
    with pytest.raises(ClientError) as error:
        user.client.call("POST", "/v1/git/clone", json=asked)
    assert (error.value.status, error.value.code) == (status, code), error.value


def workspace(user: User) -> list[str]:
    names: list[str] = user.python("import json, os; print(json.dumps(os.listdir('/workspace')))")
    return sorted(names)


def test_a_repository_is_cloned_and_its_token_stays_outside(user: User, git_host: GitHost) -> None:
    before = workspace(user)
    url, head = git_host.url, git_host.git("rev-parse", "main")
    refused(user, 422, "git_auth_failed", url=url, token="wrong")
    refused(user, 404, "repository_not_found", url=f"{url}x", token=TOKEN)
    refused(user, 404, "repository_not_found", url=url, token=TOKEN, branch="none")
    refused(user, 403, "host_not_allowed", url=url)
    large = url.replace("letters", "large")
    refused(user, 413, "repository_too_large", url=large, token=TOKEN)
    assert workspace(user) == before, "what did not work leaves nothing behind"
    asked = {"url": url, "token": TOKEN}
    cloned = user.client.call("POST", "/v1/git/clone", json=asked)
    assert (cloned["commit"], cloned["branch"]) == (head, "main")
    assert (cloned["directory"], cloned["bytes"] > 1000) == ("letters", True)
    refused(user, 409, "directory_exists", **asked)
    assert "second" in user.shell("claude", "cat letters/letter.txt")
    # That token was for the one clone.
    assert "fatal" in user.shell("claude", "git -C letters fetch 2>&1 | cat")


def test_an_agents_own_git_uses_the_kept_token_without_knowing_it(
    user: User, git_host: GitHost
) -> None:
    user.client.call("PUT", f"/v1/git/credentials/{git_host.place}", json={"token": TOKEN})
    listed = user.client.call("GET", "/v1/git/credentials")
    assert [one["host"] for one in listed["credentials"]] == [git_host.place]
    assert TOKEN not in str(listed)
    asked = {"url": git_host.url, "directory": "post/mine", "depth": 1, "branch": "main"}
    user.client.call("POST", "/v1/git/clone", json=asked)
    assert user.shell("claude", "git -C post/mine rev-list --count HEAD").strip() == "1"
    work = "cd post/mine && git checkout -q -b answer && echo third > letter.txt"
    commit = "git -c user.name=a -c user.email=a@example.org commit -q -a -m third"
    said = user.shell("codex", f"{work} && {commit} && git push -q origin answer 2>&1; echo $?")
    assert git_host.git("show", "answer:letter.txt") == "third", said
    remote = user.shell(
        "claude",
        "git -C post/mine remote get-url --push origin; git -C post/mine config remote.origin.url",
    )
    assert git_host.url in remote
    encoded = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    for secret in (TOKEN, encoded):
        assert user.python(SEARCH, stdin=secret) == []
    user.client.call("DELETE", f"/v1/git/credentials/{git_host.place}")
    assert "fatal" in user.shell("claude", "git -C post/mine fetch 2>&1 | cat")


def test_a_hostile_repository_runs_nothing(user: User, git_host: GitHost) -> None:
    asked = {"url": git_host.url, "token": TOKEN, "branch": "hostile", "directory": "hostile"}
    refused(user, 502, "git_failed", submodules=True, **asked)
    user.client.call("POST", "/v1/git/clone", json=asked)
    assert "owned" not in workspace(user)
