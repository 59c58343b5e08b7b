// The OpenAI Node SDK, unchanged but for its base URL. Prints one JSON object of what it saw.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const baseURL = process.argv[2];
const client = new OpenAI({ baseURL, apiKey: "node", maxRetries: 0 });
const pause = () => new Promise((done) => setTimeout(done, 400));
const messages = [{ role: "user", content: "What is the capital of France?" }];
const seen = {};

const first = await client.chat.completions.create({ model: "m", messages });
await pause();
const again = await client.chat.completions.create({ model: "m", messages }).withResponse();
seen.chat = [first.choices[0].message.content, again.data.choices[0].message.content];
seen.how = again.response.headers.get("x-gateway-how");
seen.requestId = Boolean(again.request_id);

const read = async () => {
  let text = "", total = 0;
  const stream = await client.chat.completions.create({ model: "m", messages, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    total = chunk.usage?.total_tokens ?? total;
  }
  return [text, total];
};
seen.stream = await read();

const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }];
const ask = [{ role: "user", content: "call the tool" }];
const called = await client.chat.completions.create({ model: "m", messages: ask, tools });
await pause();
const replayed = await client.chat.completions.stream({ model: "m", messages: ask, tools }).finalChatCompletion();
seen.tools = [called.choices[0].message.tool_calls[0].function.name, replayed.choices[0].message.tool_calls[0].function.name];

const City = z.object({ name: z.string() });
const structured = { model: "m", messages: [{ role: "user", content: "structured please" }], response_format: zodResponseFormat(City, "city") };
seen.structured = [(await client.chat.completions.parse(structured)).choices[0].message.parsed.name];
await pause();
seen.structured.push((await client.chat.completions.parse(structured)).choices[0].message.parsed.name);

const vectors = await client.embeddings.create({ model: "e", input: "hello", encoding_format: "float" });
seen.embeddings = vectors.data[0].embedding.length;

const response = await client.responses.create({ model: "m", input: "What is the capital of Spain?" });
await pause();
const streamed = await client.responses.stream({ model: "m", input: "What is the capital of Spain?" }).finalResponse();
seen.responses = [response.output_text, streamed.output_text];

try {
  await client.chat.completions.create({ model: "m", messages: [] });
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.param];
}
try {
  await client.chat.completions.create({ model: "m", messages: [{ role: "user", content: "fail with 429" }] });
} catch (error) {
  seen.limited = [error.constructor.name, error.code, error.headers.get("retry-after")];
}
const patient = new OpenAI({ baseURL, apiKey: "node", maxRetries: 2 });
const retried = await patient.chat.completions.create({ model: "m", messages: [{ role: "user", content: "fail once" }] });
seen.retried = retried.choices[0].message.content;

console.log(JSON.stringify(seen));
