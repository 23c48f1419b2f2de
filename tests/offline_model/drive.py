"""The real CLIs, one prompt a process, against a base URL."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hutch_runtime.protocol import Provider
from tests.clis import cli_argv

KEY = "sk-cli-test-key"
GEMINI_SETTINGS = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {
        "enableAutoUpdate": False,
        "enableAutoUpdateNotification": False,
        "maxAttempts": 1,
    },
}
RESUME: dict[Provider, list[str]] = {
    "claude": ["--continue"],
    "codex": ["resume", "--last"],
    "gemini": ["--resume", "latest"],
}


@dataclass(frozen=True)
class Outcome:
    returncode: int
    lines: tuple[dict[str, object], ...]
    output: str

    def text(self, provider: Provider) -> str:
        """The answer, or what the CLI said of the error."""
        match provider:
            case "claude":
                found = [line.get("result", "") for line in self.lines if line["type"] == "result"]
            case "codex":
                items = [
                    line.get("item") for line in self.lines if line["type"] == "item.completed"
                ]
                found = [
                    item["text"]
                    for item in items
                    if isinstance(item, dict) and item["type"] == "agent_message"
                ]
            case "gemini":
                found = [
                    line["content"]
                    for line in self.lines
                    if line["type"] == "message" and line["role"] == "assistant"
                ]
        return "".join(map(str, found))


@dataclass(frozen=True)
class Cli:
    """One CLI with a home and a workspace of its own."""

    provider: Provider
    base_url: str
    home: Path

    @property
    def workspace(self) -> Path:
        return self.home / "w"

    def run(self, prompt: str, *, by_stdin: bool = False, resume: bool = False) -> Outcome:
        """Prompt it once and wait; ``resume`` takes up the latest session of its workspace."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            self._argv(prompt, by_stdin=by_stdin, resume=resume),
            cwd=self.workspace,
            env=self._environment(),
            input=prompt if by_stdin else "",
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        # An end may cut what a pipe has not taken yet: a last line that is not whole is none.
        whole = done.stdout[: done.stdout.rfind("\n") + 1].splitlines()
        parsed = [json.loads(line) for line in whole if line.startswith("{")]
        lines = tuple(line for line in parsed if "type" in line)
        return Outcome(done.returncode, lines, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}")

    def _argv(self, prompt: str, *, by_stdin: bool, resume: bool) -> list[str]:
        more = RESUME[self.provider] if resume else []
        argv = cli_argv(self.provider)
        match self.provider:
            case "claude":
                argv += ["-p", *more, "--output-format", "stream-json", "--verbose"]
                argv += ["--permission-mode", "bypassPermissions"]
                return argv if by_stdin else [*argv, prompt]
            case "codex":
                gateway = (
                    f'{{name="hutch",base_url="{self.base_url}/v1",env_key="HUTCH_KEY",'
                    'wire_api="responses",request_max_retries=0,stream_max_retries=0}'
                )
                argv += ["exec", "--json", "--skip-git-repo-check"]
                argv += ["--dangerously-bypass-approvals-and-sandbox"]
                argv += ["-c", "model_provider=hutch", "-c", f"model_providers.hutch={gateway}"]
                argv += ["-c", "analytics.enabled=false", "--disable", "plugins"]
                return [*argv, *more, "-" if by_stdin else prompt]
            case "gemini":
                argv += ["-m", "gemini-2.5-pro", "-o", "stream-json", "--approval-mode", "yolo"]
                return [*argv, *more] if by_stdin else [*argv, *more, "-p", prompt]

    def _environment(self) -> dict[str, str]:
        temporary = self.home / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "NO_PROXY": "127.0.0.1",
            "TERM": "xterm-256color",
        }
        match self.provider:
            case "claude":
                return environment | {
                    "CLAUDE_CONFIG_DIR": str(self.home / "claude"),
                    "ANTHROPIC_BASE_URL": self.base_url,
                    "ANTHROPIC_API_KEY": KEY,
                    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                    "CLAUDE_CODE_MAX_RETRIES": "0",
                    "DISABLE_AUTOUPDATER": "1",
                    "IS_SANDBOX": "1",
                }
            case "codex":
                (self.home / "codex").mkdir(exist_ok=True)
                return environment | {"CODEX_HOME": str(self.home / "codex"), "HUTCH_KEY": KEY}
            case "gemini":
                settings = self.home / ".gemini" / "settings.json"
                settings.parent.mkdir(exist_ok=True)
                settings.write_text(json.dumps(GEMINI_SETTINGS))
                return environment | {
                    "GOOGLE_GEMINI_BASE_URL": self.base_url,
                    "GEMINI_API_KEY": KEY,
                    "GEMINI_CLI_TRUST_WORKSPACE": "true",
                    "GEMINI_CLI_NO_RELAUNCH": "true",
                }
