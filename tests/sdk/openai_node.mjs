// The server as openai-node sees it.
//
// Black box, like test_openai.py, and shorter: what the two clients read alike is
// tested there. The node client is laxer about values and stricter about streams,
// its helper throws where a role or a finish_reason never comes.
//
//     npm install --no-package-lock --prefix tests/sdk
//     ESPALIER_URL=http://127.0.0.1:8000 node --test tests/sdk/openai_node.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const root = process.env.ESPALIER_URL;
assert.ok(root, "ESPALIER_URL must name the server");
const baseURL = `${root.replace(/\/+$/, "").replace(/\/v1$/, "")}/v1`;

// A retry would hide the first answer from the test that asked for it.
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0, timeout: 120_000 });
const model = (await client.models.list()).data[0].id;
const messages = [
  {
    role: "user",
    content: "Mina has 14 apples. Tom gives Mina 35. Then the number doubles. How many apples does Mina have now?",
  },
];
const request = { model, messages, seed: 1, reasoning_effort: "medium" };

test("an answer with its reasoning, usage and report", async () => {
  const completion = await client.chat.completions.create(request);
  const [choice] = completion.choices;
  assert.match(choice.message.content, /98/);
  assert.match(choice.message.reasoning_content, /49/);
  assert.equal(choice.finish_reason, "stop");
  const { usage } = completion;
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.ok(usage.completion_tokens_details.reasoning_tokens <= usage.completion_tokens);
  assert.equal(completion.search.mode, "self_consistency");
  assert.ok(completion._request_id);
});

test("a stream says what the whole answer says", async () => {
  const whole = await client.chat.completions.create(request);
  const stream = await client.chat.completions.create({
    ...request,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
  const content = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(content, whole.choices[0].message.content);
});

test("the stream helper assembles every choice", async () => {
  const fields = { ...request, reasoning_effort: "low", n: 2 };
  const whole = await client.chat.completions.create(fields);
  const stream = client.chat.completions.stream(fields);
  const deltas = [];
  stream.on("content", (delta) => deltas.push(delta));
  const final = await stream.finalChatCompletion();
  assert.ok(deltas.length > 0);
  assert.deepEqual(
    final.choices.map((choice) => [choice.index, choice.message.content, choice.finish_reason]),
    whole.choices.map((choice) => [choice.index, choice.message.content, choice.finish_reason]),
  );
});

test("leaving a stream early leaves a server that answers", async () => {
  const stream = await client.chat.completions.create({ ...request, stream: true });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    break;
  }
  stream.controller.abort();
  const completion = await client.chat.completions.create({ ...request, reasoning_effort: "none" });
  assert.ok(completion.choices[0].message.content);
});

test("models are listed and retrieved", async () => {
  assert.equal((await client.models.retrieve(model)).id, model);
  await assert.rejects(client.models.retrieve("no-such-model"), OpenAI.NotFoundError);
});

test("errors have the client's own classes, with param and code", async () => {
  const refused = (fields, kind, expected) =>
    assert.rejects(client.chat.completions.create({ ...request, ...fields }), (error) => {
      assert.ok(error instanceof kind, `${error}`);
      for (const [key, value] of Object.entries(expected)) assert.equal(error[key], value);
      assert.ok(error.requestID);
      return true;
    });
  await refused({ model: "no-such-model" }, OpenAI.NotFoundError, { code: "model_not_found" });
  await refused({ n: 0 }, OpenAI.BadRequestError, { param: "n", code: "integer_below_min_value" });
  await refused({ n: 0, stream: true }, OpenAI.BadRequestError, { param: "n" });
  await refused({ reasoning_effort: "heroic" }, OpenAI.BadRequestError, {
    param: "reasoning_effort",
    code: "invalid_value",
  });
});
