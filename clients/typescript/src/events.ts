/** always: and what is like it, without asking, as long as the CLI remembers. */
export type Decision = "allow" | "always" | "deny";

/** The events of a run, as docs/api.md lists them. A newer service may send types that are not here. */
export type RunEvent = { run_id: string; seq: number; time: number } & (
  | { type: "run.started"; provider: string; session: string; model: string | null; cli_version: string; agent: string }
  | { type: "queued"; reason: string; position: number }
  | { type: "text.delta"; text: string }
  | { type: "text"; text: string }
  | { type: "reasoning.delta"; text: string }
  | { type: "tool.started"; tool_id: string; kind: string; name: string; input: Record<string, unknown> }
  | { type: "tool.output"; tool_id: string; text: string }
  | { type: "tool.finished"; tool_id: string; ok: boolean; output: string }
  | { type: "plan"; items: { text: string; status: "pending" | "in_progress" | "completed" }[] }
  | {
      type: "approval.requested";
      approval_id: string;
      tool_id: string;
      kind: string;
      name: string;
      input: Record<string, unknown>;
      diff: string | null;
      truncated: boolean;
      timeout_s: number;
    }
  | { type: "approval.decided"; approval_id: string; decision: Decision; by: "user" | "timeout" | "cancel" | "agent" }
  | { type: "usage"; input_tokens: number; output_tokens: number; cached_tokens: number; cost_usd: number | null }
  | { type: "retrying"; attempt: number; delay_ms: number | null; status: number | null; code: string }
  | { type: "agent.restarted"; reason: string; how: string }
  | { type: "truncated"; scope: string; limit_bytes: number; dropped_bytes: number }
  | { type: "unparsed"; line: string }
  | {
      type: "run.finished";
      stop_reason: string;
      error: { code: string; message: string } | null;
      text: string;
      timings: Record<string, number>;
    }
);

/** Takes bytes, gives whole events; `data:` lines only, split at line feeds alone. */
export class Decoder {
  private rest = "";
  private readonly text = new TextDecoder();

  feed(chunk: Uint8Array): RunEvent[] {
    const lines = (this.rest + this.text.decode(chunk, { stream: true })).split("\n");
    this.rest = lines.pop() ?? "";
    return lines.filter((line) => line.startsWith("data:")).map((line) => JSON.parse(line.slice(5)) as RunEvent);
  }
}
