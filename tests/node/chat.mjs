// One call with the openai npm package: the question as JSON on stdin, what the application got as one JSON line on stdout.
// The fields are those of Ask and Reply in tests/clients.py. Proxy and CA come from the environment, as for any program.
import OpenAI from 'openai';
import { text as readAll } from 'node:stream/consumers';

const ask = JSON.parse(await readAll(process.stdin));
const client = new OpenAI({ baseURL: ask.base_url, apiKey: ask.api_key, maxRetries: ask.max_retries, timeout: ask.timeout_s * 1000 });
const reply = { text: '', chunks: 0, usage: null, model: null, id: null, status: null, headers: {}, error: null };

const calls = {
  chat: (options) => client.chat.completions.create({ messages: [{ role: 'user', content: ask.message }], ...fields() }, options),
  completions: (options) => client.completions.create({ prompt: ask.message, ...fields() }, options),
  embeddings: (options) => client.embeddings.create({ model: ask.model, input: ask.message, ...ask.extra }, options),
  models: (options) => client.models.list(options),
};

function fields() {
  const stream = ask.stream ? { stream: true, ...(ask.include_usage ? { stream_options: { include_usage: true } } : {}) } : {};
  return { model: ask.model, ...stream, ...ask.extra };
}

function take(part) {
  reply.chunks += 1;
  reply.id = part.id || reply.id;
  reply.model = part.model || reply.model;
  reply.usage = part.usage ?? reply.usage;
  const choice = part.choices?.[0];
  reply.text += (choice?.message ?? choice?.delta)?.content ?? choice?.text ?? '';
}

try {
  const { data, response } = await calls[ask.endpoint]({ headers: ask.headers }).withResponse();
  reply.status = response.status;
  reply.headers = Object.fromEntries(response.headers);
  if (ask.stream) {
    for await (const part of data) {
      take(part);
      if (ask.leave_after && reply.chunks >= ask.leave_after) break;
    }
  } else {
    take(data);
  }
} catch (fault) {
  reply.status = fault.status ?? reply.status;
  reply.headers = fault.headers ? Object.fromEntries(fault.headers) : reply.headers;
  reply.error = `${fault.constructor.name}: ${fault.message}`;
}
process.stdout.write(JSON.stringify(reply) + '\n');
