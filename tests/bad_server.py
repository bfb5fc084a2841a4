"""A small HTTP server that misbehaves like a tracking server in trouble."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serve(behaviour: str) -> Iterator[str]:
    """Address of a server that answers every request in one way.

    `500` and `403`: that status, with MLflow's form of an error. `slow`: nothing, until the block ends. `garbage`: 200
    and no JSON. `cut`: closes the connection in the middle of an answer.
    """
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if behaviour == "slow":
                over.wait(120)
                self.close_connection = True
                return
            body = {
                "500": b'{"error_code": "INTERNAL_ERROR", "message": "the database is on fire"}',
                "403": b'{"error_code": "PERMISSION_DENIED", "message": "you may not"}',
            }.get(behaviour, b"<html>no JSON")
            self.send_response({"500": 500, "403": 403}.get(behaviour, 200))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) + (100 if behaviour == "cut" else 0)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
