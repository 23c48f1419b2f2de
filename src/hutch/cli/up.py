"""``hutch up`` and ``hutch down``: the whole service on this machine, and its end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from hutch.backends.base import Capabilities
from hutch.backends.open import open_backend
from hutch.cli.api_secrets import NAMES, for_the_api
from hutch.cli.background import Background, Program
from hutch.cli.demo import KEY_VARIABLES, demo, uses_offline_model
from hutch.cli.profile import admin_client, client_with, service_url
from hutch.client import ApiError, ClientError
from hutch.config import Settings, source_checkout
from hutch.errors import HutchError, Unavailable
from hutch.host.setup import set_up
from hutch_runtime.protocol import PROVIDERS

_READY_S: Final = 60.0
_POLL_S: Final = 0.1
_INHERITED: Final = {"HOME", "LANG", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ"}
API: Final = "api"
GATEWAY: Final = "gateway"
OFFLINE_MODEL: Final = "offline-model"


def up(settings: Settings, console: Console) -> bool:
    """Install, build, start, and run one prompt per provider. True if all three answered."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    capabilities = start(settings, say)
    offline = {p for p in PROVIDERS if uses_offline_model(settings, p)}
    for warning in filter(None, (capabilities.warning, capabilities.firewall_warning)):
        console.print(f"\nWARNING: {warning}\n", style="bold red", markup=False)
    answered = demo(settings, console)
    if offline:
        say(
            f"\n{', '.join(sorted(offline))}: answered by the offline model, which is no real "
            f"model. Set {', '.join(KEY_VARIABLES[p][0] for p in sorted(offline))} and run "
            "`make up` again for the real one."
        )
    hutch = Path(sys.executable).with_name("hutch")
    shown = hutch.relative_to(Path.cwd()) if hutch.is_relative_to(Path.cwd()) else hutch
    say(f"\nAPI       {service_url(settings)}   (docs at {service_url(settings)}/docs)")
    say(f"key       {settings.data_dir / 'client.json'}, which `hutch run` uses")
    say(f'try       {shown} run claude "Hello"')
    say(f"logs      {settings.logs_dir}")
    return answered


def start(settings: Settings, say: Callable[[str], None]) -> Capabilities:
    """Everything short of a prompt; on return the service is ready. Raises ``HutchError``."""
    address, capabilities = asyncio.run(_prepare(settings, say))
    background = Background(settings.data_dir, settings.logs_dir)
    for program in _programs(settings, address):
        if background.start(program):
            say(f"started {program.name}")
    _wait_until_ready(settings, background)
    return capabilities


def down(settings: Settings, console: Console) -> None:
    """End every program, container and network of this installation. Stored data stays."""
    background = Background(settings.data_dir, settings.logs_dir)
    if background.alive(API):
        _put_all_away(settings, console)
    for name in (API, GATEWAY, OFFLINE_MODEL):
        if background.stop(name):
            console.print(f"stopped {name}")
    try:
        ended = asyncio.run(_remove_all(settings))
    except HutchError as error:
        console.print(f"{error.message} {error.hint}", style="yellow", markup=False)
        return
    console.print(
        f"removed {ended} container{'' if ended == 1 else 's'} and the network; "
        f"data stays in {settings.data_dir}",
        highlight=False,
    )


def _put_all_away(settings: Settings, console: Console) -> None:
    """What users have in their containers outlives these."""
    away, left = 0, 1
    try:
        with admin_client(settings, here=True) as client:
            while left:
                done = client.call("POST", "/v1/admin/containers/hibernate")
                away, left = away + done["hibernated"], done["left"]
    except (ClientError, HutchError) as error:
        console.print(f"containers are ended as they are: {error}", style="yellow", markup=False)
    if away:
        console.print(f"put away {away} container{'' if away == 1 else 's'}", highlight=False)


async def _prepare(settings: Settings, say: Callable[[str], None]) -> tuple[str, Capabilities]:
    await set_up(settings, say)
    backend = open_backend(settings)
    try:
        return await backend.prepare(), await backend.capabilities()
    finally:
        await backend.close()


async def _remove_all(settings: Settings) -> int:
    backend = open_backend(settings)
    try:
        ended = len(await backend.list())
        await backend.cleanup()
        return ended
    finally:
        await backend.close()


def _programs(settings: Settings, address: str) -> list[Program]:
    """The API comes last: it needs the gateway."""
    # No more than they need: a user's API keys, above all, go through the API into the vault.
    environment = {
        name: text
        for name, text in os.environ.items()
        if name in _INHERITED or name.startswith("HUTCH_")
    }
    for secret in ("HUTCH_API_KEY", "HUTCH_ADMIN_KEY", *NAMES):
        environment.pop(secret, None)
    environment["HUTCH_DATA_DIR"] = str(settings.data_dir)
    environment["HUTCH_PORT"] = str(settings.port)
    environment["HUTCH_GATEWAY_PORT"] = str(settings.gateway_port)
    model = f"http://127.0.0.1:{settings.offline_model_port}"
    offline = [p for p in PROVIDERS if uses_offline_model(settings, p)]
    for provider in offline:
        environment[f"HUTCH_{provider.upper()}_BASE_URL"] = model
    version = _code_version()
    python = sys.executable
    programs = [
        Program(
            GATEWAY,
            (python, "-m", "hutch.gateway", "--host", address),
            environment,
            version,
        ),
        Program(
            API,
            (python, "-m", "hutch.cli.main", "serve"),
            {**environment, **for_the_api(settings)},
            version,
        ),
    ]
    if offline:
        argv = (
            *(python, "-m", "hutch.offline_model", "--host", "127.0.0.1"),
            *("--port", str(settings.offline_model_port)),
        )
        programs.insert(0, Program(OFFLINE_MODEL, argv, environment, version))
    return programs


def _code_version() -> str:
    """Changes with any line of ours, so that `make up` after `git pull` restarts what it must."""
    root = source_checkout()
    digest = hashlib.sha256()
    for path in sorted((root / "src").rglob("*.py")) if root else []:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _wait_until_ready(settings: Settings, background: Background) -> None:
    until = time.monotonic() + _READY_S
    while True:
        try:
            with client_with(settings, "", retry_for_s=0) as client:
                client.call("GET", "/readyz")
                return
        except ApiError as error:
            last = error.message
        except ClientError as error:
            last = str(error)
        for name in (API, GATEWAY):
            if not background.alive(name):
                raise Unavailable(
                    f"The {name} ended as soon as it was started.",
                    hint=f"Its log says why: {background.log(name)}",
                )
        if time.monotonic() > until:
            raise Unavailable(
                f"The service was not ready within {_READY_S:.0f} s. {last}",
                hint=f"Look into {settings.logs_dir}, or ask `hutch doctor`.",
            )
        time.sleep(_POLL_S)
