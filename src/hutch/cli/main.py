"""``hutch``: the command line."""

from __future__ import annotations

import asyncio
import json as json_module
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from hutch.cli import (
    admin,
    agreements,
    bridge,
    completion,
    container,
    credentials,
    exit_codes,
    exits,
    files,
    git,
    image,
    keys,
    mcp_servers,
    network,
    profiles,
    runs,
    sessions,
    webhooks,
)
from hutch.cli.api_secrets import settings_apart_from_environment
from hutch.cli.completion import RunId
from hutch.cli.doctor import doctor
from hutch.cli.login import login
from hutch.cli.printable import echo, printable
from hutch.cli.profile import admin_client, user_client, user_client_later
from hutch.cli.providers import ProviderArgument
from hutch.cli.tables import table
from hutch.client import ClientError, Unreachable
from hutch.client.run_options import RunOptions
from hutch.config import Settings
from hutch.errors import HutchError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Claude Code, Codex CLI and Gemini CLI in a container of each user's own.",
)
app.add_typer(admin.app, name="admin")
app.add_typer(agreements.app, name="agreements")
app.add_typer(container.app, name="container")
app.add_typer(credentials.app, name="credentials")
app.add_typer(files.app, name="files")
app.add_typer(git.app, name="git")
app.add_typer(image.app, name="image")
app.add_typer(keys.app, name="keys")
app.add_typer(mcp_servers.app, name="mcp-servers")
app.add_typer(network.app, name="network")
app.add_typer(profiles.app, name="profile")
app.add_typer(runs.app, name="runs")
app.add_typer(sessions.app, name="sessions")
app.add_typer(webhooks.app, name="webhooks")
app.command()(doctor)
app.command()(login)
app.command()(runs.usage)
app.command()(bridge.acp)
app.command()(bridge.mcp)
app.command("exit")(exits.own_exit)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"hutch {metadata.version('hutch')}")
        raise typer.Exit


@app.callback()
def main_options(
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-P",
            help="The server; see `hutch profile`.",
            autocompletion=completion.profile_names,
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001  its callback prints it
        bool,
        typer.Option("--version", help="Print this program's version.", callback=_print_version),
    ] = False,
) -> None:
    if profile is not None:
        os.environ["HUTCH_PROFILE"] = profile


Model = Annotated[str | None, typer.Option(help="A model that the CLI knows.")]
Session = Annotated[
    str | None,
    typer.Option(help="Go on with this session (ses_…).", autocompletion=completion.sessions),
]
Continue = Annotated[
    bool, typer.Option("--continue", "-c", help="Go on with your last session of this provider.")
]
Seconds = Annotated[
    float | None, typer.Option(help="Seconds to the end, the wait for a container included.")
]
Permission = Annotated[
    Literal["auto", "ask"] | None,
    typer.Option(help="ask: you decide what the agent may change. auto, if left out."),
]


@app.command()
def run(
    provider: ProviderArgument,
    prompt: Annotated[
        str | None, typer.Argument(help="What is piped in follows it; - or nothing: that alone.")
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="Text to add; may be repeated.")
    ] = None,
    attach: Annotated[
        list[Path] | None, typer.Option("--attach", "-a", help="A file for the agent; images too.")
    ] = None,
    model: Model = None,
    session: Session = None,
    go_on: Continue = False,
    timeout: Seconds = None,
    system_prompt: Annotated[str | None, typer.Option(help="Instead of the CLI's own.")] = None,
    append_system_prompt: Annotated[str | None, typer.Option(help="Behind the CLI's own.")] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Of the model.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="US dollars.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="A file with a JSON schema that the answer has to fit.")
    ] = None,
    permission_mode: Permission = None,
    approval_timeout: Annotated[
        float | None, typer.Option(help="Seconds for each decision; then it is no.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key never runs twice.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Remember what it changed, for `hutch files diff`.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the events, one a line.")] = False,
) -> None:
    """Run a prompt in your container and show the answer as it comes. Ctrl-C cancels it.

    git diff | hutch run codex "Review this."
    """
    from hutch.cli import prompts  # noqa: PLC0415  only this command needs it
    from hutch.cli.run import last_session  # noqa: PLC0415  the same
    from hutch.cli.run import run as run_prompt  # noqa: PLC0415  the same

    text = prompts.assemble(prompt, file or [])
    options: RunOptions = {
        "model": model,
        "session_id": session,
        "timeout_s": timeout,
        "system_prompt": system_prompt,
        "append_system_prompt": append_system_prompt,
        "max_turns": max_turns,
        "max_cost_usd": max_cost,
        "output_schema": prompts.schema(schema),
        "permission_mode": permission_mode,
        "approval_timeout_s": approval_timeout,
        "attachments": prompts.attachments(attach or []),
        "diff": diff or None,
        "idempotency_key": key,
    }
    with user_client(Settings()) as client:
        if go_on and session is None:
            options["session_id"] = last_session(client, provider)
        raise typer.Exit(run_prompt(client, provider, text, as_json=json, **options))


@app.command()
def chat(
    provider: ProviderArgument,
    model: Model = None,
    session: Session = None,
    go_on: Continue = False,
    permission_mode: Permission = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds of each turn.")] = None,
) -> None:
    """Talk with an agent: Ctrl-C ends the turn, Ctrl-D the conversation; /help says the rest."""
    from hutch.cli.chat import chat as talk  # noqa: PLC0415  only this command needs it
    from hutch.cli.run import last_session  # noqa: PLC0415  the same

    with user_client(Settings()) as client:
        if go_on and session is None:
            session = last_session(client, provider)
        asks = permission_mode == "ask"
        talk(client, provider, model=model, session_id=session, asks=asks, timeout_s=timeout)


@app.command(context_settings={"allow_interspersed_args": False})
def shell(
    command: Annotated[
        list[str] | None, typer.Argument(help="A program and its arguments; the shell, if none.")
    ] = None,
    attach: Annotated[str | None, typer.Option(help="Come back to this terminal (term_…).")] = None,
) -> None:
    """A shell in your container, or another program. ~. at the start of a line leaves it running.

    hutch shell -- claude
    """
    from hutch.cli.shell import shell as open_shell  # noqa: PLC0415  only this command needs it

    raise typer.Exit(asyncio.run(open_shell(user_client_later(Settings()), command, attach)))


@app.command()
def terminals(json: Json = False) -> None:
    """Your terminals that live; `hutch shell --attach` comes back to one."""
    with user_client(Settings()) as client:
        found = client.call("GET", "/v1/terminals")["terminals"]
    if json:
        typer.echo(json_module.dumps(found))
        return
    rows = [
        (
            one["id"],
            " ".join(one["command"] or ("the shell",)),
            "yes" if one["attached"] else "",
            one["created_at"],
        )
        for one in found
    ]
    table(("terminal", "command", "attached", "created"), rows)


@app.command()
def logs(
    run_id: RunId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Live, until it has ended. Ctrl-C leaves it.")
    ] = False,
    after: Annotated[int, typer.Option(min=0, help="From the event after this number.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the events, one a line.")] = False,
) -> None:
    """What a run did: its events so far."""
    from hutch.cli.run import logs as show  # noqa: PLC0415  only this command needs it

    with user_client(Settings()) as client:
        raise typer.Exit(show(client, run_id, live=follow, after=after, as_json=json))


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
    except (HutchError, ClientError) as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)


def _fail(error: HutchError | ClientError) -> None:
    text, hint = error.message, error.hint
    if isinstance(error, ClientError):
        text = str(error)
    if isinstance(error, Unreachable):
        hint = "`make up` starts the service here; `hutch doctor` looks for causes."
    sys.stderr.write(printable(f"{text}\n{hint}\n" if hint else f"{text}\n"))
    sys.exit(exit_codes.of(error))


if __name__ == "__main__":
    main()
