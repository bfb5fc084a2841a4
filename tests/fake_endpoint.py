"""A local server that speaks /v1/chat/completions, and misbehaves as told."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = Callable[["FakeEndpoint", BaseHTTPRequestHandler, dict[str, Any]], None]


def answer_well(server: FakeEndpoint, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """A text decided by the conversation and the seed, cut as the protocol says."""
    text = f"about {body['messages'][-1]['content']} " + " ".join(f"w{body.get('seed', 0) % 97}" for _ in range(40))
    words = text.split(" ")
    limit = body.get("max_tokens", 1000)
    reason = "stop" if len(words) <= limit else "length"
    text = " ".join(words[:limit])
    for stop in body.get("stop", []):
        if stop in text:
            text, reason = text[: text.find(stop)], "stop"
    reply(handler, 200, {"choices": [{"message": {"content": text}, "finish_reason": reason}]})


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})).items():  # fmt: skip
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def failing(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    return lambda server, handler, request: reply(handler, status, body or {"error": {"message": "broken"}}, headers)


def saying(body: Any) -> Answer:
    return lambda server, handler, request: reply(handler, 200, body)


def choice(content: Any, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "finish_reason": reason, **more}]}


def drop(server: FakeEndpoint, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    handler.close_connection = True


def truncate(server: FakeEndpoint, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    reply(handler, 200, b'{"choices": [{"mess', {"Content-Length": "5000"})
    handler.close_connection = True


def stall(server: FakeEndpoint, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    server.over.wait(60)
    handler.close_connection = True


def drip(server: FakeEndpoint, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """A byte now and then, for ever: no pause is long enough for a timeout between bytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not server.over.wait(0.05):
        handler.wfile.write(b" ")
    handler.close_connection = True


class FakeEndpoint:
    """`plan[content]` holds what is done at the attempts for a conversation; after them it is answered well."""

    def __init__(self, plan: dict[str, list[Answer]] | None = None, default: Answer = answer_well) -> None:
        self.plan = plan or {}
        self.default = default
        self.seen: list[dict[str, Any]] = []  # bodies, in order
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.attempts: Counter[str] = Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = body["messages"][-1]["content"]
                with outer._lock:
                    outer.seen.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    outer.times.append(time.monotonic())
                    number = outer.attempts[content]
                    outer.attempts[content] += 1
                planned = outer.plan.get(content, [])
                act = planned[number] if number < len(planned) else outer.default
                try:
                    act(outer, self, body)
                except OSError:  # the client has gone
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
