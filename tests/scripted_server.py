"""An OpenAI-compatible server on loopback whose answers a test writes down: real HTTP, no model."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Raw(bytes):
    """A whole HTTP response, sent as it stands; the connection is closed behind it."""


def chat(*texts, finish="stop", tokens=5):
    """The body of a chat answer with these choices."""
    choices = [{"index": i, "message": {"content": t}, "finish_reason": finish} for i, t in enumerate(texts)]
    return {"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": tokens * len(texts)}}


def asked(body):
    """(prompt, what the answer has said so far) of a chat request."""
    prompt, *rest = [message["content"] for message in body["messages"]]
    return prompt, "".join(rest)


@contextmanager
def serving(answer):
    """Serve `answer(body, number) -> body | (status, headers, body) | Raw` for request `number` (from 0).

    Yields the server: `.url` ends in /v1, `.log` holds (path, headers, body) of each request so far.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.log)
                server.log.append((self.path, dict(self.headers), body))
            came = answer(body, number)
            if isinstance(came, Raw):
                self.wfile.write(came)
                self.close_connection = True
                return
            status, headers, content = came if isinstance(came, tuple) else (200, {}, came)
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that were killed
    server.log = []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
