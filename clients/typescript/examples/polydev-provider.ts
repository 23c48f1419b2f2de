/**
 * A provider as Polydev has them: for a user, a provider and a prompt, the answer as it is written.
 *
 *   HUTCH_URL=… HUTCH_SERVICE_KEY=… node dist/examples/polydev-provider.js user_… claude "Say hello."
 */
import { Hutch, HutchError, type Provider } from "../src/index.js";

export class HutchProvider {
  private readonly hutch: Hutch;

  constructor(url: string, serviceKey: string) {
    this.hutch = new Hutch({ url, key: serviceKey });
  }

  /** Aborting `signal` cancels the run. */
  async *complete(userId: string, provider: Provider, prompt: string, signal?: AbortSignal): AsyncGenerator<string> {
    const hutch = this.hutch.forUser(userId);
    let runId = "";
    try {
      for await (const event of hutch.stream(provider, prompt, signal ? { signal } : {})) {
        runId = event.run_id;
        if (event.type === "text.delta") yield event.text;
        if (event.type === "run.finished" && event.error) throw new HutchError(event.error.code, event.error.message);
      }
    } catch (error) {
      if (signal?.aborted && runId) await hutch.cancel(runId);
      throw error;
    }
  }
}

const [userId, provider, prompt] = process.argv.slice(2);
if (userId && provider && prompt) {
  const hutch = new HutchProvider(process.env["HUTCH_URL"] ?? "", process.env["HUTCH_SERVICE_KEY"] ?? "");
  for await (const text of hutch.complete(userId, provider as Provider, prompt)) process.stdout.write(text);
  process.stdout.write("\n");
}
