// Reads a recorded event stream from standard input, as a chat of the AI SDK would, and prints what
// that makes of it: the message, how many events passed its validation, and what it takes for errors.
import { text } from "node:stream/consumers";

const { DefaultChatTransport, readUIMessageStream } = await import(process.argv[2]);

const recorded = await text(process.stdin);
const transport = new DefaultChatTransport({
  api: "http://recorded.invalid",
  fetch: async () => new Response(recorded, { headers: { "content-type": "text/event-stream" } }),
});
const events = await transport.reconnectToStream({ chatId: "recorded" });

let count = 0;
const counted = events.pipeThrough(
  new TransformStream({
    transform(event, controller) {
      count += 1;
      controller.enqueue(event);
    },
  }),
);
const errors = [];
let message = null;
const onError = (error) => errors.push(error.message);
for await (message of readUIMessageStream({ stream: counted, onError }));
process.stdout.write(JSON.stringify({ message, count, errors }));
