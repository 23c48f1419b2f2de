"""What a user, and what runs for them, can never reach: others' files, the network, any key."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.integration.driving import Following
from tests.service import Service, User, docker, fingerprint, tool_result

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(scope="module")
def other(service: Service) -> User:
    return service.make_user()


@each_provider
def test_two_users_at_once(user: User, other: User, provider: Provider) -> None:
    """Each its own file at the same path, its own memory, and its own key at the model."""

    def use(one: User) -> list[str]:
        answers = []
        secret = f"of-{one.id}"
        run = one.run(provider, f"[[tool:write /workspace/note.txt {secret}]]")
        answers.append(run["text"])
        for _ in range(3):
            run = one.run(
                provider,
                "[[tool:shell cat /workspace/note.txt; ls -a /workspace /home/app]]",
                session_id=run["session_id"],
            )
            answers.append(run["text"])
            assert secret in tool_result(run["text"]), run
        answers.append(one.run(provider, "[[recall]]", session_id=run["session_id"])["text"])
        return answers

    with ThreadPoolExecutor(2) as pool:
        mine, theirs = pool.map(use, (user, other))
    for one, another, answers in ((user, other, mine), (other, user, theirs)):
        for answer in answers:
            assert f"key={fingerprint(one.provider_keys[provider])} " in answer
            assert another.id not in answer
    assert user.container() != other.container()


# Looks for texts in every process and in all that can be written; the rest is the image, which is
# older than any user.
SEARCH = """
import json, os, pathlib, sys
wanted = {text: text.encode() for text in json.load(sys.stdin)}
places = {text: [] for text in wanted}
def look(path):
    try:
        content = path.read_bytes()
    except OSError:
        return
    for text, needle in wanted.items():
        if needle in content or needle in os.fsencode(path):
            places[text].append(str(path))
for process in pathlib.Path("/proc").glob("[0-9]*"):
    for name in ("environ", "cmdline"):
        look(process / name)
for root in ("/workspace", "/home", "/tmp", "/run", "/dev/shm", "/var/tmp"):
    for folder, _, names in os.walk(root):
        for name in names:
            path = pathlib.Path(folder, name)
            if path.is_file():
                look(path)
print(json.dumps(places))
"""


@each_provider
def test_a_container_holds_the_placeholder_only(
    service: Service, user: User, provider: Provider
) -> None:
    placeholder = f"hutch-placeholder-{user.client.container()['incarnation']}"
    session_id = user.run(provider, "before the search")["session_id"]
    following = Following(user, provider, f"[[hang]] {provider}", session_id=session_id)
    service.model.wait_asked(f"[[hang]] {provider}")
    wanted = [*user.provider_keys.values(), user.key, placeholder]
    try:
        during = user.python(SEARCH, stdin=wanted)
    finally:
        user.client.cancel(following.run_id)
        following.last()
    after = user.python(SEARCH, stdin=wanted)
    inspected = docker("inspect", user.container()) + docker("logs", user.container())
    for key in (*user.provider_keys.values(), user.key):
        assert during[key] == after[key] == []
        assert key not in inspected
        # An agent that dumps all it knows can tell nobody.
        assert key not in user.shell(provider, "env | sort | tail -c 150")
    # The search finds what is there: the placeholder, in the environment of a CLI.
    assert any(place.endswith("/environ") for place in during[placeholder])
    assert placeholder in inspected


def test_no_key_is_in_the_services_files_logs_and_answers(service: Service, user: User) -> None:
    run = user.run("claude", "[[status:401]]")
    user.run("gemini", "[[status:400]]")
    user.run("codex", "[[tool:shell env]]")
    answers = [
        user.client.call("GET", path)
        for path in (
            "/v1/credentials",
            "/v1/container",
            "/v1/runs?limit=100",
            "/v1/sessions?limit=100",
            *(f"/v1/credentials/{provider}" for provider in PROVIDERS),
        )
    ]
    answers += [service.admin.call("GET", f"/v1/admin/{x}") for x in ("users", "containers")]
    events = [event for page in answers[2]["runs"] for event in user.client.follow(page["id"])]
    said = json.dumps([answers, events, run])
    files = [path for path in service.settings.data_dir.rglob("*") if path.is_file()]
    assert {"hutch.db", "gateway.log", "api.log", "model.log"} <= {path.name for path in files}
    stored = {path: path.read_bytes() for path in files}
    for key in (*user.provider_keys.values(), user.key):
        assert key not in said
        assert [path for path, content in stored.items() if key.encode() in content] == []
    assert any(user.id.encode() in content for content in stored.values())
    assert user.id in said
    for name in ("secret", "admin-key"):
        assert (service.settings.data_dir / name).stat().st_mode & 0o077 == 0


# One line, for a shell: does anybody answer at these addresses?
CONNECT = (
    'python3 -c "import socket\n'
    "for host, port in {targets}:\n"
    "    try: print(host, socket.create_connection((host, port), 1).getpeername())\n"
    "    except OSError as error: print(host, type(error).__name__)"
    '"'
)


ERRORS = {"TimeoutError", "OSError", "ConnectionRefusedError"}


def reached(user: User, targets: list[tuple[str, int]]) -> dict[str, str]:
    """By host: an error's name, or the address that answered."""
    said = user.shell("codex", CONNECT.format(targets=targets))
    return {
        line.partition(" ")[0]: line.partition(" ")[2]
        for line in said.splitlines()
        if re.match(r"[0-9.]+ ", line)
    }


def test_a_sandbox_reaches_nobody(service: Service, user: User, other: User, image: str) -> None:
    other.run("codex", "make its container")
    neighbour = other.python(
        "import json, socket; print(json.dumps(socket.gethostbyname(socket.gethostname())))"
    )
    socket.create_connection((neighbour, 3000), timeout=5).close()  # it is there
    # Something beyond the bridge, as the internet is: a container on the engine's own network.
    outside = docker(
        *("run", "-d", "--rm", "--label", f"hutch.test={service.settings.instance}"),
        *("--entrypoint", "python3", image, "-m", "http.server", "8000"),
    ).strip()
    try:
        network = "{{.NetworkSettings.IPAddress}}"
        beyond = docker("inspect", "--format", network, outside).strip()
        answers = reached(
            user,
            [(neighbour, 3000), (beyond, 8000), ("169.254.169.254", 80), ("1.1.1.1", 443)],
        )
        socket.create_connection((beyond, 8000), timeout=5).close()  # so is this
    finally:
        docker("rm", "-f", outside)
    assert set(answers) == {neighbour, beyond, "169.254.169.254", "1.1.1.1"}
    assert set(answers.values()) <= ERRORS


def test_a_sandbox_reaches_the_gateway_and_nothing_else_of_the_host(
    service: Service, user: User
) -> None:
    with socket.create_server(("", 0)) as server:  # as sshd on all addresses
        port = server.getsockname()[1]
        answers = reached(user, [(service.address, service.settings.gateway_port)])
        assert service.address in answers[service.address]
        for other in (port, service.settings.port, service.model_port):
            answers = reached(user, [(service.address, other)])
            assert answers[service.address] in ERRORS
        socket.create_connection((service.address, port), timeout=5).close()  # it is there


def test_a_sandbox_reaches_the_gateway_with_its_own_identity_only(
    service: Service, user: User, other: User
) -> None:
    """Another user's placeholder, or none, changes nothing about who is asking."""
    container = user.client.container()
    theirs = f"hutch-placeholder-{other.client.container()['incarnation']}"
    code = """
import json, sys, urllib.error, urllib.request
url, keys = json.load(sys.stdin)
answers = []
for key in keys:
    headers = {"x-api-key": key, "content-type": "application/json"} if key else {}
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": "from inside"}]}).encode()
    try:
        request = urllib.request.Request(url + "/claude/v1/messages", body, headers)
        answers.append(urllib.request.urlopen(request, timeout=10).read().decode())
    except urllib.error.HTTPError as error:
        answers.append([error.code, error.read().decode()])
print(json.dumps(answers))
"""
    gateway = f"http://{service.address}:{service.settings.gateway_port}"
    own = f"hutch-placeholder-{container['incarnation']}"
    answers = user.python(code, stdin=[gateway, [own, theirs]])
    assert f"key={fingerprint(user.provider_keys['claude'])}" in str(answers[0])
    assert fingerprint(other.provider_keys["claude"]) not in str(answers)


def test_an_unknown_address_gets_nothing_from_the_gateway(service: Service) -> None:
    place = (service.address, service.settings.gateway_port)
    # Closed before anything is read, so a client may see a reset instead of an end.
    with contextlib.suppress(ConnectionError), socket.create_connection(place, 5) as plain:
        plain.sendall(b"GET /claude/v1/models HTTP/1.1\r\nhost: gateway\r\n\r\n")
        assert plain.recv(100) == b""
