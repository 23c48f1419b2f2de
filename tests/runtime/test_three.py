"""The runtime with all three CLIs at once."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from hutch_runtime.protocol import PROVIDERS
from tests.runtime.model import running_model
from tests.runtime.runtime_process import in_state, running_runtime

RUNTIME_MAX_KB = 40 * 1024  # PSS, agents not counted


async def test_each_answers_from_an_agent_that_waited_for_it(tmp_path: Path) -> None:
    with running_model() as model:
        async with running_runtime(tmp_path, model.url, prewarm=",".join(PROVIDERS)) as runtime:
            await runtime.ready()
            assert len(in_state(await runtime.health(), "spare")) == 3
            firsts = await asyncio.gather(
                *(runtime.run(f"{name}-1", f"for {name}", provider=name) for name in PROVIDERS)
            )
            for name, first in zip(PROVIDERS, firsts, strict=True):
                assert (first[0]["provider"], first[0]["agent"]) == (name, "warm")
                assert f"for {name}" in first[-1]["text"]
                session = first[0]["session"]
                more = await runtime.run(f"{name}-2", "[[recall]]", provider=name, session=session)
                assert more[0]["agent"] == "live"
                assert f"for {name}" in more[-1]["text"]
            assert _pss_kb(runtime.process.pid) <= RUNTIME_MAX_KB


def _pss_kb(pid: int) -> int:
    memory = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+) kB", memory, re.MULTILINE)
    assert found is not None
    return int(found[1])
