/** What the client throws. `code` is stable; `hint` says what to do; `status` is HTTP's, if there was an answer. */
export class HutchError extends Error {
  override readonly name: string = "HutchError";

  constructor(
    readonly code: string,
    message: string,
    readonly hint = "",
    readonly status: number | undefined = undefined,
    /** Seconds. */
    readonly retryAfter: number | undefined = undefined,
  ) {
    super(`${message} (${code})`);
  }
}

/** No connection, or it broke. */
export class Unreachable extends HutchError {
  override readonly name = "Unreachable";

  constructor(message: string) {
    super("unreachable", message);
  }
}

const PASSING = new Set(["unavailable", "database_unavailable", "unknown"]);

/** Whether asking again is right, where asking twice does no more than asking once. */
export function passes(error: unknown): error is HutchError {
  if (error instanceof Unreachable) return true;
  if (!(error instanceof HutchError)) return false;
  if (error.status === 429) return error.retryAfter !== undefined && error.code !== "too_many_failures";
  return [502, 503, 504].includes(error.status ?? 0) && PASSING.has(error.code);
}

export async function refusal(response: Response): Promise<HutchError> {
  const after = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const retryAfter = Number.isNaN(after) ? undefined : after;
  try {
    const { code, message, hint } = ((await response.json()) as { error: Record<string, string> }).error;
    return new HutchError(code ?? "unknown", message ?? "", hint, response.status, retryAfter);
  } catch {
    return new HutchError("unknown", `An answer with status ${response.status}.`, "", response.status, retryAfter);
  }
}
