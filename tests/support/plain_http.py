"""Send a request as the documentation shows it, and print the body of the answer: `python plain_http.py FILE`."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

__all__: list[str] = []

TIMEOUT_S = 30.0


def main() -> None:
    """One request line, headers, and after an empty line perhaps a body."""
    head, _, body = Path(sys.argv[1]).read_text(encoding="utf-8").strip().partition("\n\n")
    first, *rest = head.splitlines()
    method, path, _ = first.split()
    headers = dict(line.split(": ", 1) for line in rest)
    connection = http.client.HTTPConnection(headers["Host"], timeout=TIMEOUT_S)
    connection.request(method, path, body=body or None, headers=headers)
    sys.stdout.write(connection.getresponse().read().decode())


if __name__ == "__main__":
    main()
