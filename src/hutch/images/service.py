"""The image of the service itself, for `deploy/compose.yaml`: on the base of the sandboxes' image,
so that it needs no registry where that needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from hutch.config import Settings
from hutch.images.base import Choice, find_base
from hutch.images.engine import Context, build_context, engine
from hutch.images.fetch import fetch_dependencies, one_at_a_time
from hutch.images.inputs import inputs

TAG: Final = "hutch-service:latest"
_PACKAGES: Final = ("hutch", "hutch_runtime")
_SUFFIXES: Final = frozenset(
    {".py", ".typed", ".ini", ".mako", ".html", ".css", ".js", ".md", ".txt"}
)


async def build_service(
    settings: Settings, *, base: Choice, tag: str, say: Callable[[str], None]
) -> None:
    """Raises ``HostNotReady``, ``BackendError``."""
    made_from = inputs()
    async with (
        engine(settings) as docker,
        one_at_a_time(made_from.build / "image.lock", say),
    ):
        _, found = await find_base(docker, base, made_from, force=False, say=say)
        say("fetching the service's packages (uv.lock) …")
        dependencies = await fetch_dependencies(made_from, "service")
        say(f"building {tag} on {found} …")
        dockerfile = (made_from.root / "deploy" / "Dockerfile").read_text()
        with Context.open(made_from.build, dockerfile) as context:
            context.add(dependencies, "deps")
            for package in _PACKAGES:
                source = made_from.root / "src" / package
                for path in sorted(source.rglob("*")):
                    if path.is_file() and path.suffix in _SUFFIXES:
                        context.add(path, f"src/{path.relative_to(source.parent)}")
            # What the installer of a package would have written: our code asks for its own version.
            own = version("hutch")
            context.write(
                f"src/hutch-{own}.dist-info/METADATA",
                f"Metadata-Version: 2.1\nName: hutch\nVersion: {own}\n",
            )
            await build_context(docker, context, tag=tag, arguments={"BASE": found}, say=say)
    say(f"built {tag}")
