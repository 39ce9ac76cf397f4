"""Receives webhooks and keeps each as a file.

What enters: POST requests with JSON. What leaves: DIRECTORY/NUMBER.json with the moment of arrival
(monotonic) and the body.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

_LARGEST_BODY = 1 << 20


class Receiver(BaseHTTPRequestHandler):
    """One request; `directory` is set by `main`."""

    directory: Path

    def do_POST(self) -> None:
        """Keep the body, answer 204."""
        at = time.monotonic()
        length = min(int(self.headers.get("Content-Length", "0")), _LARGEST_BODY)
        text = self.rfile.read(length).decode(errors="replace")
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        number = len(list(self.directory.glob("*.json"))) + 1
        told = {"at_monotonic": at, "path": self.path, "body": body}
        temporary = self.directory / f"{number:06d}.new"
        temporary.write_text(json.dumps(told))
        temporary.rename(self.directory / f"{number:06d}.json")
        self.send_response(204)
        self.end_headers()


def main(directory: Path, port: int) -> None:
    """Serve until killed."""
    directory.mkdir(parents=True, exist_ok=True)
    Receiver.directory = directory
    HTTPServer(("0.0.0.0", port), Receiver).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
