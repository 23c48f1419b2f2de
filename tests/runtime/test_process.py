from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from hutch_runtime.identity import Identity
from hutch_runtime.process import Process, ProcessGone
from hutch_runtime.protocol import LINE_MAX_BYTES


class _Ears:
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.long: list[int] = []
        self.exits: list[str] = []


async def _python(code: str, *arguments: str) -> tuple[Process, _Ears]:
    ears = _Ears()
    process = await Process.start(
        [sys.executable, "-c", code, *arguments],
        cwd=Path("/"),
        environment={"GIVEN": "yes"},
        identity=Identity(),
        on_line=ears.lines.append,
        on_long_line=ears.long.append,
        on_exit=ears.exits.append,
    )
    return process, ears


async def test_lines_come_and_go_and_its_last_words_come_before_its_end() -> None:
    process, ears = await _python("print(input()[::-1]); print('end', end=''); exit(3)")
    await process.write(b"abc\n")
    assert await process.wait() == "exit code 3"
    assert ears.lines == [b"cba", b"end"]
    assert ears.exits == ["exit code 3"]
    assert (process.alive, process.reason) == (False, "exit code 3")


async def test_its_arguments_are_not_read_by_a_shell() -> None:
    words = ["$(id)", "; ls", "'\"", "a\nb"]
    process, ears = await _python("import sys; print(ascii(sys.argv[1:]))", *words)
    await process.wait()
    assert ears.lines == [ascii(words).encode()]


async def test_it_sees_the_environment_that_it_was_given_only() -> None:
    process, ears = await _python("import os; print(sorted(os.environ))")
    await process.wait()
    names = ears.lines[0].decode()
    assert "GIVEN" in names
    assert "PATH" not in names


async def test_a_line_that_is_too_long_is_dropped_and_counted() -> None:
    process, ears = await _python(f"print('x' * {LINE_MAX_BYTES + 1}); print('after')")
    await process.wait()
    assert (ears.long, ears.lines) == ([LINE_MAX_BYTES + 1], [b"after"])


async def test_standard_error_is_drained_and_only_its_end_kept() -> None:
    code = "import sys; sys.stderr.write('x' * 1000000 + 'the end'); print('ok')"
    process, ears = await _python(code)
    await process.wait()
    assert ears.lines == [b"ok"]
    assert process.stderr_tail.endswith("the end")
    assert len(process.stderr_tail) <= 4096


async def test_what_it_started_ends_with_it() -> None:
    code = """if True:
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(child.pid, flush=True)
        time.sleep(60)
    """
    process, ears = await _python(code)
    await _until_line(ears)
    child = int(ears.lines[0])
    began = time.monotonic()
    process.kill()
    assert await process.wait() == "killed by SIGKILL"
    assert time.monotonic() - began < 2  # though the child held its output open
    for _ in range(100):
        if not _runs(child):
            break
        await asyncio.sleep(0.02)
    assert not _runs(child)


async def test_closing_one_that_obeys() -> None:
    process, _ = await _python("import sys; sys.stdin.read()")
    await process.close()
    assert process.reason == "exit code 0"
    await process.close()


async def test_closing_one_that_does_not() -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
    process, ears = await _python(code + "while True: time.sleep(60)")
    await _until_line(ears)
    await process.close(grace_s=0.1)
    assert process.reason == "killed by SIGKILL"


async def test_one_that_ends_at_once_takes_nobody_with_it() -> None:
    for _ in range(20):
        process, ears = await _python("import os; os._exit(0)")
        assert await process.wait() == "exit code 0"
        assert len(ears.exits) == 1


async def test_writing_to_one_that_is_gone() -> None:
    process, _ = await _python("pass")
    await process.wait()
    with pytest.raises(ProcessGone):
        await process.write(b"x")


async def test_writing_to_one_that_goes_while_we_wait() -> None:
    process, _ = await _python("import time; time.sleep(0.2)")
    with pytest.raises(ProcessGone):
        await process.write(b"x" * 10_000_000)


async def test_a_program_that_is_not_there() -> None:
    ears = _Ears()
    with pytest.raises(FileNotFoundError):
        await Process.start(
            ["/no/such/program"],
            cwd=Path("/"),
            environment={},
            identity=Identity(),
            on_line=ears.lines.append,
            on_long_line=ears.long.append,
            on_exit=ears.exits.append,
        )


async def _until_line(ears: _Ears) -> None:
    for _ in range(500):
        if ears.lines:
            return
        await asyncio.sleep(0.01)
    pytest.fail("no line came")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    assert pid != os.getpid()
    return state != "Z"
