"""As much of curl as the documentation uses, for machines without it: `curl.py -s [-X METHOD] [-H HEADER]… [-d BODY] URL`."""

from __future__ import annotations

import argparse
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

__all__: list[str] = []

TIMEOUT_S = 30.0


def main() -> None:
    """Print the body of the answer, whatever its status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    parser.add_argument("url")
    given = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in given.headers)
    request = Request(given.url, given.body and given.body.encode(), headers, method=given.method)
    try:
        with urlopen(request, timeout=TIMEOUT_S) as answer:
            sys.stdout.write(answer.read().decode())
    except HTTPError as error:
        sys.stdout.write(error.read().decode())


if __name__ == "__main__":
    main()
