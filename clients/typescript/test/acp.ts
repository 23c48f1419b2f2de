/** An editor, as tests/integration/test_bridges.py needs one: speaks to `hutch acp` by the protocol's own SDK. */
import { spawn } from "node:child_process";
import { Readable, Writable } from "node:stream";

import * as acp from "@agentclientprotocol/sdk";

const [command, ...argv] = process.argv.slice(2);
const agent = spawn(command ?? "", argv, { stdio: ["pipe", "pipe", "inherit"] });
const stream = acp.ndJsonStream(
  Writable.toWeb(agent.stdin) as WritableStream<Uint8Array>,
  Readable.toWeb(agent.stdout) as unknown as ReadableStream<Uint8Array>,
);

function say(value: unknown): void {
  process.stdout.write(JSON.stringify(value) + "\n");
}

let onText: (() => void) | undefined;
const decisions = ["deny", "allow"];
const editor = acp
  .client({ name: "test" })
  .onNotification(acp.methods.client.session.update, ({ params }) => {
    say({ session: params.sessionId, update: params.update });
    if (params.update.sessionUpdate === "agent_message_chunk") onText?.();
  })
  .onRequest(acp.methods.client.session.requestPermission, ({ params }) => {
    say({ asked: params });
    return { outcome: { outcome: "selected", optionId: decisions.shift() ?? "" } };
  });

const { initialize, session } = acp.methods.agent;
await editor.connectWith(stream, async (ctx) => {
  say({ begun: await ctx.request(initialize, { protocolVersion: acp.PROTOCOL_VERSION, clientCapabilities: {} }) });
  const { sessionId } = await ctx.request(session.new, { cwd: "/", mcpServers: [] });

  async function prompt(text: string, id = sessionId): Promise<void> {
    const ended = await ctx.request(session.prompt, { sessionId: id, prompt: [{ type: "text", text }] });
    say({ ended: ended.stopReason });
  }

  async function refused(asked: Promise<unknown>): Promise<void> {
    try {
      await asked;
      say({ refused: null });
    } catch (error) {
      say({ refused: error instanceof acp.RequestError ? { code: error.code, data: error.data } : String(error) });
    }
  }

  await prompt("[[tool:shell echo from an editor]]");
  await prompt("[[reasoning]] remember me");

  // Cancelled in the middle.
  const streaming = new Promise<void>((resolve) => (onText = resolve));
  const turn = prompt("[[slow:600,50]] on and on");
  await streaming;
  await ctx.notify(session.cancel, { sessionId });
  await turn;
  onText = undefined;

  // Taken up again, as after a restart of the editor: by the service's own id.
  const listed = await ctx.request(session.list, {});
  const known = listed.sessions[0]?.sessionId ?? "";
  say({ listed: known });
  await ctx.request(session.load, { sessionId: known, cwd: "/", mcpServers: [] });
  say({ loaded: known });
  await prompt("[[recall]]", known);

  // Asked before a file is written: no, then yes.
  await ctx.request(session.setMode, { sessionId: known, modeId: "ask" });
  await prompt("[[tool:write /workspace/asked.txt no]]", known);
  await prompt("[[tool:write /workspace/asked.txt yes]]", known);
  await ctx.request(session.setMode, { sessionId: known, modeId: "auto" });
  await prompt("[[tool:shell cat /workspace/asked.txt]]", known);

  await refused(ctx.request(session.setMode, { sessionId: known, modeId: "perhaps" }));
  await refused(prompt("[[status:401]]"));
  await refused(ctx.request(session.load, { sessionId: "ses_none", cwd: "/", mcpServers: [] }));
  await refused(ctx.request(session.prompt, { sessionId: "none", prompt: [{ type: "text", text: "x" }] }));
});
agent.stdin.end();
if (agent.exitCode === null) await new Promise((resolve) => agent.on("exit", resolve));
say({ exit: agent.exitCode });
