"""A provider over HTTP that counts input ahead of a call, in the words of three of them."""

import contextlib
import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class CountingProvider:
    """Answers "Done." to every call, billed with the count that it gave."""

    count: int
    count_status: int = 200
    count_delay_s: float = 0.0
    url: str = ""
    counted: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    called: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and the body for one POST."""
        if path.endswith(("/count_tokens", "/input_tokens", ":countTokens")):
            self.counted.append(body)
            time.sleep(self.count_delay_s)
            return self.count_status, {"input_tokens": self.count, "totalTokens": self.count}
        self.called.append(body)
        if path.endswith("/messages"):
            return 200, self._anthropic()
        if path.endswith("/responses"):
            return 200, self._openai()
        return 200, self._google()

    def _anthropic(self) -> dict[str, Any]:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": "Done."}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": self.count, "output_tokens": 5},
        }

    def _openai(self) -> dict[str, Any]:
        text = {"type": "output_text", "text": "Done.", "annotations": []}
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1_700_000_000,
            "model": "gpt-5",
            "status": "completed",
            "output": [message],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": self.count,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.count + 5,
            },
        }

    def _google(self) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": "Done."}]}
        return {
            "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {
                "promptTokenCount": self.count,
                "candidatesTokenCount": 5,
                "totalTokenCount": self.count + 5,
            },
            "modelVersion": "gemini-2.5-pro",
            "responseId": "r1",
        }


@contextmanager
def serving(provider: CountingProvider) -> Generator[CountingProvider]:
    """The provider at a URL of this machine, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            status, answer = provider.answer(self.path.partition("?")[0], body)
            content = json.dumps(answer).encode()
            # Who asked may have waited long enough.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
