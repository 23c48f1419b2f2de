/** What tests/integration/test_typescript.py and tests/client run: prints one line of JSON for each thing that it saw. */
import { Hutch, HutchError, type RunEvent } from "../src/index.js";

const [what, ...rest] = process.argv.slice(2);
const hutch = new Hutch({ url: process.env["HUTCH_URL"] ?? "", key: process.env["HUTCH_API_KEY"] ?? "" });

function say(value: unknown): void {
  process.stdout.write(JSON.stringify(value) + "\n");
}

async function all(events: AsyncGenerator<RunEvent, void>): Promise<void> {
  for await (const event of events) say(event);
}

try {
  switch (what) {
    case "stream":
      await all(hutch.stream("codex", rest[0] ?? ""));
      break;
    case "follow":
      await all(hutch.follow(rest[0] ?? "", { after: Number(rest[1] ?? 0) }));
      break;
    case "run":
      say(await hutch.run("codex", rest[0] ?? ""));
      break;
    case "sessions": {
      const { data } = await hutch.api.GET("/v1/sessions", { params: { query: { limit: 1 } } });
      say(data?.sessions);
      break;
    }
  }
} catch (error) {
  if (!(error instanceof HutchError)) throw error;
  say({ name: error.name, code: error.code, status: error.status ?? null });
}
