// A page with a chat of the AI SDK: it reads the first of the streams from standard input, and what it
// is told when it resumes; prints what the page shows in the end.
import { text } from "node:stream/consumers";

const { AbstractChat, DefaultChatTransport } = await import(process.argv[2]);
const [first, again] = JSON.parse(await text(process.stdin));

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => (this.messages = [...this.messages, message]);
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (index, message) => (this.messages = this.messages.with(index, message));
  snapshot = (value) => structuredClone(value);
}

class Chat extends AbstractChat {
  constructor(init) {
    super({ ...init, state: new State() });
  }
}

function response(events, { ends }) {
  const encoder = new TextEncoder();
  const body = new ReadableStream({
    async start(controller) {
      for (const event of events) {
        controller.enqueue(encoder.encode(`data: ${JSON.stringify(event)}\n\n`));
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      if (ends) controller.close();
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}

const errors = [];
const transport = new DefaultChatTransport({
  api: "http://page.invalid",
  fetch: async (_url, { method } = {}) =>
    method === "POST" ? response(first, { ends: false }) : response(again, { ends: true }),
});
let finish;
const finished = new Promise((resolve) => (finish = resolve));
const chat = new Chat({
  transport,
  onError: (error) => errors.push(String(error)),
  onData: async (part) => {
    if (part.type !== "data-retry") return;
    await chat.stop();
    chat.messages = chat.messages.filter((message) => message.id !== part.data.messageId);
    await chat.resumeStream();
    finish();
  },
});
chat.sendMessage({ text: "hi" });
await finished;
process.stdout.write(JSON.stringify({ errors, status: chat.status, messages: chat.messages }));
process.exit(0);
