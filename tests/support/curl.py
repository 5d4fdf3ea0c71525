"""As much of curl as the documentation uses, for machines without it."""

from __future__ import annotations

import argparse
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit, urlunsplit

__all__: list[str] = []

TIMEOUT_S = 30.0
REDIRECTED = 307  # with the same method and body


def main() -> None:
    """Print the body of the answer, whatever its status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true", help="as always here")
    parser.add_argument("-L", dest="follow", action="store_true")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    parser.add_argument("url")
    given = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in given.headers)
    method = given.method or ("POST" if given.body else "GET")
    url = given.url
    while True:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        connection.request(method, urlunsplit(("", "", *parts[2:])), body=given.body, headers=headers)
        answer = connection.getresponse()
        if answer.status != REDIRECTED or not given.follow:
            break
        url = answer.headers["Location"]
    sys.stdout.write(answer.read().decode())


if __name__ == "__main__":
    main()
