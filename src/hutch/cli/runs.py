"""``hutch runs`` and ``hutch usage``: what was run, and what it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from hutch.cli.approvals import Decision
from hutch.cli.completion import RunId
from hutch.cli.printable import echo, printable
from hutch.cli.profile import user_client
from hutch.cli.questions import lines
from hutch.cli.tables import Json, fields, print_json, table, when
from hutch.client.models import Approval, Run
from hutch.config import Settings
from hutch.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Your runs.")


@app.command("list")
def list_all(
    session: Annotated[str | None, typer.Option(help="Of this session only (ses_…).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json: Json = False,
) -> None:
    """Newest first."""
    with user_client(Settings()) as client:
        page = client.runs(limit=limit, session_id=session)
    if json:
        print_json(page)
        return
    columns = ("run", "provider", "state", "began", "seconds", "session", "answer")
    table(columns, [_row(run) for run in page])


@app.command()
def show(run_id: RunId, json: Json = False) -> None:
    """One run, with its prompt."""
    with user_client(Settings()) as client:
        run = client.get_run(run_id)
    if json:
        print_json(run)
        return
    state = run.state
    if run.error:
        state += f": {run.error.message} ({run.error.code})"
    elif run.queue:
        state += f": number {run.queue.position}, {run.queue.reason}"
    tokens = run.usage
    fields(
        {
            "run": run.id,
            "state": state,
            "provider": f"{run.provider} {run.cli_version or ''}",
            "model": run.model or "the CLI's default",
            "session": run.session_id,
            "began": when(run.created_at),
            "seconds": _seconds(run),
            "tokens": f"{tokens.input_tokens} in, {tokens.output_tokens} out" if tokens else "",
            "prompt": run.prompt or "",
            "answer": run.text,
        }
    )


@app.command()
def cancel(run_id: RunId, json: Json = False) -> None:
    """End the turn, not the session."""
    with user_client(Settings()) as client:
        run = client.cancel(run_id)
    if json:
        print_json(run)
    else:
        echo(run.state)


ApprovalId = Annotated[
    str | None, typer.Argument(help="apr_…; the one that waits, if it is the only one.")
]


@app.command()
def approvals(run_id: RunId, json: Json = False) -> None:
    """What a run has asked for, and what was decided."""
    with user_client(Settings()) as client:
        found = client.approvals(run_id)
    if json:
        print_json(found)
        return
    for one in found:
        echo(f"{one.id}: {_decision(one)}")
        for line, _ in lines(one.kind, one.name, one.input, one.diff, truncated=one.truncated):
            echo(line)


@app.command()
def approve(
    run_id: RunId,
    approval_id: ApprovalId = None,
    always: Annotated[bool, typer.Option("--always", help="Also what is like it.")] = False,
    json: Json = False,
) -> None:
    """Let the agent do what it asks for."""
    _decide(run_id, approval_id, "always" if always else "allow", as_json=json)


@app.command()
def deny(run_id: RunId, approval_id: ApprovalId = None, json: Json = False) -> None:
    """Do not let it; it is told, and goes on."""
    _decide(run_id, approval_id, "deny", as_json=json)


def _decide(run_id: str, approval_id: str | None, decision: Decision, *, as_json: bool) -> None:
    with user_client(Settings()) as client:
        if approval_id is None:
            waiting = [one.id for one in client.approvals(run_id) if one.decision is None]
            if len(waiting) != 1:
                listed = ", ".join(waiting) or "none"
                raise InvalidRequest(
                    f"Which? Of this run wait: {listed}.", hint=f"hutch runs approvals {run_id}"
                )
            approval_id = waiting[0]
        decided = client.decide(run_id, approval_id, decision)
    if as_json:
        print_json(decided)
    else:
        echo(_decision(decided))


def _decision(approval: Approval) -> str:
    if approval.decision is None:
        return f"waits until {when(approval.expires_at)}"
    return f"{approval.decision}, by {approval.by}"


@dataclass(frozen=True, slots=True)
class Sum:
    provider: str
    runs: int
    failed: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: float | None  # of the runs whose CLI says
    seconds: float


def usage(
    days: Annotated[float, typer.Option(min=0, help="Of so many last days.")] = 30,
    json: Json = False,
) -> None:
    """Sum up what your runs report: tokens, and US dollars where the CLI says."""
    since = datetime.now(UTC) - timedelta(days=days)
    with user_client(Settings()) as client:
        runs: list[Run] = []
        page = client.run_page(limit=100)
        while True:
            runs += [run for run in page.runs if run.created_at >= since]
            if page.next is None or page.runs[-1].created_at < since:
                break
            page = client.run_page(limit=100, before=page.next)
    sums = [_sum(name, runs) for name in sorted({run.provider for run in runs})]
    if json:
        print_json([asdict(one) for one in sums])
        return
    columns = ("provider", "runs", "failed", "input", "output", "cached", "USD", "seconds")
    table(
        columns,
        [
            [
                *(one.provider, str(one.runs), str(one.failed), str(one.input_tokens)),
                *(str(one.output_tokens), str(one.cached_tokens)),
                *("" if one.cost_usd is None else f"{one.cost_usd:.4f}", f"{one.seconds:.1f}"),
            ]
            for one in sums
        ],
    )


def _sum(provider: str, runs: Iterable[Run]) -> Sum:
    ours = [run for run in runs if run.provider == provider]
    told = [run.usage for run in ours if run.usage]
    costs = [one.cost_usd for one in told if one.cost_usd is not None]
    return Sum(
        provider=provider,
        runs=len(ours),
        failed=sum(run.state == "failed" for run in ours),
        input_tokens=sum(one.input_tokens for one in told),
        output_tokens=sum(one.output_tokens for one in told),
        cached_tokens=sum(one.cached_tokens for one in told),
        cost_usd=sum(costs) if costs else None,
        seconds=sum(run.timings.get("total_ms", 0) for run in ours) / 1000,
    )


def _row(run: Run) -> list[str]:
    said = run.error.message if run.error else run.text
    line = " ".join(printable(said).split())
    shown = line if len(line) <= 60 else line[:59] + "…"
    began = when(run.created_at)
    return [run.id, run.provider, run.state, began, _seconds(run), run.session_id, shown]


def _seconds(run: Run) -> str:
    return f"{run.timings['total_ms'] / 1000:.1f}" if "total_ms" in run.timings else ""
