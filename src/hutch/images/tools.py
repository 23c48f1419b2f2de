"""The image's first half: the base, the tools of agents, and the CLIs. It changes seldom."""

from __future__ import annotations

from collections.abc import Callable

import aiodocker

from hutch.images.base import Choice, Kind, find_base
from hutch.images.engine import Context, build_context, labels_of
from hutch.images.fetch import fetch_clis
from hutch.images.inputs import Inputs


async def tools(
    docker: aiodocker.Docker,
    choice: Choice,
    made_from: Inputs,
    *,
    force: bool,
    say: Callable[[str], None],
) -> tuple[Kind, str]:
    """The kind of its base and its tag; made if there is none of these inputs, or by ``force``.

    Raises ``BackendError``, ``HostNotReady``.
    """
    content = made_from.tools_content()[:12]
    kinds: tuple[Kind, ...] = ("public", "debian") if choice == "auto" else (choice,)
    for kind in kinds:
        if not force and await labels_of(docker, _tag(kind, content)) is not None:
            return kind, _tag(kind, content)
    kind, base = await find_base(docker, choice, made_from, force=force, say=say)
    say("fetching the CLIs (image/package-lock.json) …")
    clis = await fetch_clis(made_from)
    tag = _tag(kind, content)
    say(f"building {tag} on {base} …")
    with Context.open(made_from.build, made_from.stages()[0]) as context:
        context.add(clis / "node_modules", "clis/node_modules")
        await build_context(
            docker, context, tag=tag, arguments={"BASE": base}, afresh=force, say=say
        )
    return kind, tag


def _tag(kind: Kind, content: str) -> str:
    return f"hutch-tools:{kind}-{content}"
