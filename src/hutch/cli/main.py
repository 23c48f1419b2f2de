"""``hutch``: the command line."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from hutch.cli import admin, agreements, container, exits, image, keys, network
from hutch.cli.api_secrets import settings_apart_from_environment
from hutch.cli.doctor import doctor
from hutch.cli.login import login
from hutch.cli.printable import echo, printable
from hutch.cli.profile import admin_client, user_client
from hutch.cli.tables import table
from hutch.client import ApiError, ClientError
from hutch.config import Settings
from hutch.errors import HutchError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Claude Code, Codex CLI and Gemini CLI in a container of each user's own.",
)
app.add_typer(admin.app, name="admin")
app.add_typer(agreements.app, name="agreements")
app.add_typer(container.app, name="container")
app.add_typer(image.app, name="image")
app.add_typer(keys.app, name="keys")
app.add_typer(network.app, name="network")
app.command()(doctor)
app.command()(login)
app.command("exit")(exits.own_exit)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(
    provider: Annotated[str, typer.Argument(help="claude, codex or gemini")],
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    model: Annotated[str | None, typer.Option(help="A model that the CLI knows.")] = None,
    session: Annotated[str | None, typer.Option(help="Go on with this session (ses_…).")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the events, one a line.")] = False,
) -> None:
    """Run a prompt in your container and show the answer as it comes. Ctrl-C cancels it."""
    from hutch.cli.run import run as run_prompt  # noqa: PLC0415  only this command needs it

    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    options = {"model": model, "session_id": session, "timeout_s": timeout}
    given = {name: value for name, value in options.items() if value is not None}
    with user_client(Settings()) as client:
        code = run_prompt(client, provider, prompt, as_json=json, **given)
    raise typer.Exit(code)


@app.command()
def ps(json: Json = False) -> None:
    """Every live container, whose it is and what it uses."""
    with admin_client(Settings()) as client:
        containers = client.call("GET", "/v1/admin/containers")["containers"]
    if json:
        typer.echo(json_module.dumps(containers))
        return
    columns = ("container", "user", "state", "isolation", "memory", "cpu", "created")
    table(columns, [_container_row(container) for container in containers])


def _container_row(container: dict[str, Any]) -> tuple[str, ...]:
    stats = container["stats"]
    return (
        container["id"],
        container["user_id"] or "nobody yet",
        container["observed"],
        container["isolation"] or "",
        f"{stats['memory_bytes'] >> 20} MB" if stats else "",
        f"{stats['cpu_seconds']:.1f} s" if stats else "",
        container["created_at"],
    )


@app.command()
def serve() -> None:
    """Serve the API in the foreground. Settings are environment variables HUTCH_*."""
    from hutch.cli.serve import serve as serve_api  # noqa: PLC0415  imports the whole service

    serve_api(settings_apart_from_environment())


@app.command()
def up() -> None:
    """Install what is missing, build the image, start everything, try each provider once."""
    from hutch.cli.up import up as bring_up  # noqa: PLC0415  imports the whole service

    raise typer.Exit(0 if bring_up(settings_apart_from_environment(), Console()) else 1)


@app.command()
def setup() -> None:
    """Install what is missing and build the image; start nothing."""
    from hutch.host.setup import set_up  # noqa: PLC0415  only this command needs it

    asyncio.run(set_up(settings_apart_from_environment(), echo))


@app.command()
def down() -> None:
    """End every program, container and network that `hutch up` made. Data stays."""
    from hutch.cli.up import down as bring_down  # noqa: PLC0415  imports the whole service

    bring_down(Settings(), Console())


demos = typer.Typer(invoke_without_command=True, help="See it work.")
app.add_typer(demos, name="demo")


@demos.callback()
def demo(context: typer.Context) -> None:
    """One prompt per provider for a demo user, and a table of what came back."""
    if context.invoked_subcommand is not None:
        return
    from hutch.cli.demo import demo as show  # noqa: PLC0415  only this command needs it

    raise typer.Exit(0 if show(Settings(), Console()) else 1)


@demos.command("egress")
def demo_egress(
    runs: Annotated[int, typer.Option(min=1, help="Of each user, and twice.")] = 50,
) -> None:
    """Three users, three exits: where each is seen from, also while exits die. Linux, root."""
    from hutch.cli.demo_egress import demo_egress as show  # noqa: PLC0415  only this command

    raise typer.Exit(0 if show(Console(), runs=runs) else 1)


def main() -> None:
    """Run the command line; an error that we know is a message and a hint, never a traceback."""
    try:
        app()
    except HutchError as error:
        _fail(error.message, error.hint)
    except ApiError as error:
        _fail(f"{error.message} ({error.code})", error.hint)
    except ClientError as error:
        _fail(str(error), "`make up` starts the service here; `hutch doctor` looks for causes.")


def _fail(message: str, hint: str) -> None:
    text = f"{message}\n{hint}\n" if hint else f"{message}\n"
    sys.stderr.write(printable(text))
    sys.exit(1)


if __name__ == "__main__":
    main()
