// OpenAI's package for Node, on its two protocols.

import OpenAI from "openai";

const apiKey = process.env.HUTCH_API_KEY;
const client = new OpenAI({ baseURL: `${process.env.HUTCH_URL}/v1`, apiKey });

function chat(prompt, options = {}) {
  const messages = [{ role: "user", content: prompt }];
  return client.chat.completions.create({ model: "codex", messages, ...options });
}

async function streamedChat() {
  let text = "";
  let usage = null;
  const tools = [];
  const stream_options = { include_usage: true };
  const prompt = "[[tool:shell echo by chat]]";
  for await (const chunk of await chat(prompt, { stream: true, stream_options })) {
    text += chunk.choices.map((choice) => choice.delta.content ?? "").join("");
    usage = chunk.usage ?? usage;
    if (chunk.hutch?.event?.tool_id) tools.push(chunk.hutch.event.type);
  }
  return { text, tools, usage };
}

async function streamedResponse() {
  const tools = [];
  const stream = client.responses.stream({ model: "codex", input: "[[tool:shell echo again]]" });
  for await (const event of stream) {
    if (event.hutch?.event?.tool_id) tools.push(event.hutch.event.type);
  }
  const last = await stream.finalResponse();
  return { text: last.output_text, tools, status: last.status };
}

async function refused(ask) {
  try {
    await ask();
  } catch (error) {
    return { as: error.constructor.name, status: error.status, code: error.code };
  }
  throw new Error("it was answered");
}

const whole = await chat("[[tool:shell echo whole]]");
const metadata = { session_id: "of node" };
await chat("first of the name", { metadata });
const response = await client.responses.create({ model: "codex", input: "in a response" });
const next = { model: "codex", input: "[[recall]]", previous_response_id: response.id };
const stranger = new OpenAI({ baseURL: client.baseURL, apiKey: "hutch_user_wrong" });
const byUser = await chat("[[recall]] by user", { user: whole.hutch.session_id });
const named = await chat("[[recall]]", { metadata });
const seen = {
  models: (await client.models.list()).data.map((model) => model.id),
  whole,
  by_user: byUser.choices[0].message.content,
  named: [named.choices[0].message.content],
  streamed: await streamedChat(),
  response,
  responded_next: (await client.responses.create(next)).output_text,
  streamed_response: await streamedResponse(),
  refused: [
    await refused(() => stranger.models.list()),
    await refused(() => chat("x", { model: "llama" })),
    await refused(() => chat("x", { n: 2 })),
    await refused(() => chat("[[status:429]] of node")),
    await refused(() => client.responses.retrieve("resp_none")),
  ],
};
console.log(JSON.stringify(seen));
