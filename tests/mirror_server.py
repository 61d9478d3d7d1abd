"""A web server on this machine that stands for a mirror, with faults that a test can choose."""

import contextlib
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator


class Server(http.server.ThreadingHTTPServer):
    """Serves files by name, and counts the requests for each."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: dict[str, bytes], fault: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.fault = fault  # none, error, silent, slow, dripping or truncated
        self.requests: Counter[str] = Counter()
        self.released = threading.Event()  # ends the waiting of a silent, slow or dripping server
        self.url = f"http://127.0.0.1:{self.server_port}/mnist"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.requests[name] += 1
        content = self.server.files.get(name)
        if self.server.fault == "silent":
            self.server.released.wait(10)
        if content is None or self.server.fault == "error":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have given up
            self._send(content)

    def _send(self, content: bytes) -> None:
        if self.server.fault == "slow":
            self.wfile.write(content[:10])
            self.wfile.flush()
            self.server.released.wait(10)
        elif self.server.fault == "dripping":
            for at in range(len(content)):
                self.wfile.write(content[at : at + 1])
                self.server.released.wait(0.01)
        elif self.server.fault == "truncated":
            self.wfile.write(content[: len(content) // 2])
        else:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def servers() -> Iterator[Callable[..., Server]]:
    """Yield a function that starts a server; stop all servers at the end."""
    with contextlib.ExitStack() as stack:

        def start(files: dict[str, bytes], fault: str = "none") -> Server:
            server = stack.enter_context(Server(files, fault))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.released.set)
            return server

        yield start
