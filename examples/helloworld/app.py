"""A web application: greets NAME, and says which container did."""

import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        page = f"Hello {os.environ.get('NAME', 'World')}!\nHostname: {socket.gethostname()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


if __name__ == "__main__":
    print("listening on port 80", flush=True)
    ThreadingHTTPServer(("", 80), Hello).serve_forever()
