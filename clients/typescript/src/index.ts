/**
 * Hutch from TypeScript. `api` is a typed client for every endpoint, generated from the service's OpenAPI document;
 * `run`, `stream` and `follow` add what it does not know: streams that come back, and runs that happen once.
 */
import createClient, { type Client } from "openapi-fetch";

import type { components, paths } from "./api.js";
import { HutchError, Unreachable, passes, refusal } from "./errors.js";
import { type Decision, Decoder, type RunEvent } from "./events.js";

export { HutchError, Unreachable } from "./errors.js";
export type { Decision, RunEvent } from "./events.js";
export type { components, paths } from "./api.js";

export type Run = components["schemas"]["RunAnswer"];
export type Approval = components["schemas"]["ApprovalAnswer"];
export type Provider = components["schemas"]["RunRequest"]["provider"];
export type RunOptions = Partial<Omit<components["schemas"]["RunRequest"], "provider" | "prompt" | "stream" | "wait">> & {
  /** One that a repeat from another process knows, too; else each call has its own. */
  idempotencyKey?: string;
  /** Ends the looking, not the run. */
  signal?: AbortSignal;
};

export interface HutchOptions {
  url: string;
  key: string;
  /** With a service key: for whom the requests are. */
  userId?: string;
  /** Seconds for which what failed is tried again; of a stream since it last brought something. Default 30. */
  retryForS?: number;
  /** Seconds of silence after which a connection counts as broken; the service is never silent for 15. Default 60. */
  silenceS?: number;
  fetch?: typeof fetch;
}

const FIRST_PAUSE_S = 0.1;
const LONGEST_PAUSE_S = 5;
const WAIT_S = 45; // most proxies cut a request that is silent for 60

export class Hutch {
  readonly api: Client<paths>;

  constructor(private readonly options: HutchOptions) {
    this.api = createClient<paths>({
      baseUrl: options.url,
      headers: this.headers(),
      ...(options.fetch ? { fetch: options.fetch } : {}),
    });
  }

  /** The same client for one user of yours; for a service key. */
  forUser(userId: string): Hutch {
    return new Hutch({ ...this.options, userId });
  }

  /** Run a prompt to its end. A run that was accepted and failed is no exception: read `state` and `error`. */
  async run(provider: Provider, prompt: string, options: RunOptions = {}): Promise<Run> {
    const [body, headers] = this.asked(provider, prompt, options);
    let run = await this.json<Run>("POST", "/v1/runs", { ...body, wait: WAIT_S }, headers, options.signal);
    while (run.state === "queued" || run.state === "running") {
      run = await this.json<Run>("GET", `/v1/runs/${run.id}?wait=${WAIT_S}`, undefined, {}, options.signal);
    }
    return run;
  }

  /** A new run's events as they come. It begins when you iterate, and goes on if you stop. */
  stream(provider: Provider, prompt: string, options: RunOptions = {}): AsyncGenerator<RunEvent, void> {
    const [body, headers] = this.asked(provider, prompt, options);
    return this.events({ body: { ...body, stream: true }, headers }, 0, options.signal);
  }

  /** A run's events after the number `after`, live until it has ended. */
  follow(runId: string, { after = 0, signal }: { after?: number; signal?: AbortSignal } = {}): AsyncGenerator<RunEvent, void> {
    return this.events({ runId }, after, signal);
  }

  /** The answer alone, piece by piece. */
  async *text(provider: Provider, prompt: string, options: RunOptions = {}): AsyncGenerator<string, void> {
    let streamed = false;
    for await (const event of this.stream(provider, prompt, options)) {
      if (event.type === "text.delta") {
        streamed = true;
        yield event.text;
      } else if (event.type === "text") {
        if (!streamed) yield event.text;
        streamed = false;
      } else if (event.type === "run.finished" && event.error) {
        throw new HutchError(event.error.code, event.error.message);
      }
    }
  }

  async cancel(runId: string): Promise<Run> {
    return this.json<Run>("POST", `/v1/runs/${encodeURIComponent(runId)}/cancel`);
  }

  /** On what an event `approval.requested` asks for. The first decision counts; the same again does no harm. */
  async decide(runId: string, approvalId: string, decision: Decision): Promise<Approval> {
    const path = `/v1/runs/${encodeURIComponent(runId)}/approvals/${encodeURIComponent(approvalId)}`;
    return this.json<Approval>("POST", path, { decision });
  }

  private async *events(
    start: { runId: string } | { body: object; headers: Record<string, string> },
    after: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<RunEvent, void> {
    let runId = "runId" in start ? start.runId : "";
    let last = after;
    let patience = new Patience(this.options.retryForS ?? 30);
    for (;;) {
      let idle = true;
      const beat = new Heartbeat((this.options.silenceS ?? 60) * 1000, signal);
      try {
        const response =
          runId || !("body" in start)
            ? await this.open("GET", `/v1/runs/${encodeURIComponent(runId)}/events?after=${last}`, undefined, { accept: "text/event-stream" }, beat.signal)
            : await this.open("POST", "/v1/runs", start.body, start.headers, beat.signal);
        runId = response.headers.get("x-hutch-run") ?? runId;
        const decoder = new Decoder();
        for await (const chunk of chunks(response)) {
          beat.heard();
          for (const event of decoder.feed(chunk)) {
            if (event.seq <= last) continue;
            if (event.seq !== last + 1) throw new Unreachable("An event is missing in the stream.");
            last = event.seq;
            idle = false;
            patience = new Patience(this.options.retryForS ?? 30);
            yield event;
            if (event.type === "run.finished") return;
          }
        }
        if (idle && last > 0 && (await this.isOver(runId, last, signal))) return;
        throw new Unreachable("The stream of events broke off.");
      } catch (error) {
        await patience.after(error, signal);
      } finally {
        beat.stop();
      }
    }
  }

  private async isOver(runId: string, last: number, signal: AbortSignal | undefined): Promise<boolean> {
    const path = `/v1/runs/${encodeURIComponent(runId)}/events?after=${last}`;
    const page = await this.json<{ events: unknown[]; finished: boolean }>("GET", path, undefined, { accept: "application/json" }, signal);
    return page.finished && page.events.length === 0;
  }

  /** For what may be asked twice. */
  private async json<T>(method: string, path: string, body?: object, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<T> {
    const patience = new Patience(this.options.retryForS ?? 30);
    for (;;) {
      const beat = new Heartbeat(((this.options.silenceS ?? 60) + WAIT_S) * 1000, signal);
      try {
        const response = await this.open(method, path, body, headers, beat.signal);
        try {
          return (await response.json()) as T;
        } catch (error) {
          if (error instanceof SyntaxError) throw new HutchError("unexpected_answer", "The answer is not from Hutch.");
          throw new Unreachable(`The connection to ${this.options.url} broke.`);
        }
      } catch (error) {
        await patience.after(error, signal);
      } finally {
        beat.stop();
      }
    }
  }

  private async open(method: string, path: string, body: object | undefined, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    let response: Response;
    try {
      response = await (this.options.fetch ?? fetch)(this.options.url + path, {
        method,
        signal,
        headers: { ...this.headers(), ...(body ? { "content-type": "application/json" } : {}), ...headers },
        ...(body ? { body: JSON.stringify(body) } : {}),
      });
    } catch {
      throw new Unreachable(`The service at ${this.options.url} does not answer.`);
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }

  private headers(): Record<string, string> {
    const { key, userId } = this.options;
    return { authorization: `Bearer ${key}`, ...(userId ? { "x-hutch-user": userId } : {}) };
  }

  private asked(provider: Provider, prompt: string, options: RunOptions): [object, Record<string, string>] {
    const { idempotencyKey, signal: _, ...fields } = options;
    return [{ provider, prompt, ...fields }, { "idempotency-key": idempotencyKey ?? crypto.randomUUID() }];
  }
}

/** Of one call, or of one stream until it makes progress again. */
class Patience {
  private since: number | undefined;
  private pauseS = FIRST_PAUSE_S;

  constructor(private readonly forS: number) {}

  /** Waits until the next try; throws `error` when there is none. */
  async after(error: unknown, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) throw signal.reason;
    if (!passes(error)) throw error;
    const now = Date.now() / 1000;
    this.since ??= now;
    const pauseS = error.retryAfter ?? this.pauseS * (0.5 + Math.random() / 2);
    this.pauseS = Math.min(this.pauseS * 2, LONGEST_PAUSE_S);
    if (now + pauseS > this.since + this.forS) throw error;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(done, pauseS * 1000);
      function aborted() {
        clearTimeout(timer);
        reject(signal?.reason);
      }
      function done() {
        signal?.removeEventListener("abort", aborted);
        resolve();
      }
      signal?.addEventListener("abort", aborted, { once: true });
    });
  }
}

/** Aborts a connection that is silent for too long, or when the caller aborts. */
class Heartbeat {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout>;
  private readonly abort = () => this.controller.abort();

  constructor(
    private readonly silenceMs: number,
    private readonly outer: AbortSignal | undefined,
  ) {
    this.timer = setTimeout(this.abort, silenceMs);
    if (outer?.aborted) this.abort();
    outer?.addEventListener("abort", this.abort, { once: true });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  heard(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.abort, this.silenceMs);
  }

  /** Also closes the connection of whoever stopped in the middle. */
  stop(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.abort);
    this.abort();
  }
}

async function* chunks(response: Response): AsyncGenerator<Uint8Array, void> {
  if (!response.headers.get("content-type")?.startsWith("text/event-stream") || !response.body) {
    throw new HutchError("unexpected_answer", "The answer is no stream of events.");
  }
  const reader = response.body.getReader();
  for (;;) {
    let read: ReadableStreamReadResult<Uint8Array>;
    try {
      read = await reader.read();
    } catch {
      throw new Unreachable("The stream of events broke off.");
    }
    if (read.done) return;
    yield read.value;
  }
}
