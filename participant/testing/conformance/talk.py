"""Requests to a participant under test, each kept with its answer, so that a broken promise can be shown and repeated.

JSON, because every participant must take it, and msgpack where it is asked for. Whatever is no answer is written down
as such, never raised: that a participant hangs, or hangs up, is a finding.
"""

from __future__ import annotations

import asyncio
import io
import json
import shlex
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgpack
from yarl import URL

from participant.bounded import read_bounded
from participant.errors import WireError
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Verb, branch_path

__all__ = ["EITHER", "JSON", "MSGPACK", "REQUEST_TIMEOUT_S", "Exchange", "Talk"]

REQUEST_TIMEOUT_S = 10.0  # then it counts as hanging; longer than a participant may wait for a row
ANSWER_BYTES_MAX = 1 << 20
SHOWN_CHARS_MAX = 500  # of a request's body or an answer, to people
JSON = "application/json"
MSGPACK = "application/msgpack"
EITHER = f"{MSGPACK}, {JSON};q=0.5"  # as a coordinator asks for capabilities


@dataclass(slots=True)
class Exchange:
    """A request and what came of it: `status`, `said_type` and `text`, or `failure`: why there is no answer."""

    method: str
    url: str
    data: bytes | None = None
    content_type: str = ""
    accept: str = JSON
    status: int | None = None
    said_type: str = ""
    text: str = ""
    failure: str = ""
    unreachable: bool = False

    @property
    def value(self) -> Any:
        """The JSON of the answer, which msgpack has become, too; None if it is none."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @property
    def answer(self) -> Answer | None:
        """What was said of the branch, if anything was."""
        if self.status != 200:
            return None
        try:
            return Answer.from_map(self.value, "answer")
        except WireError:
            return None

    @property
    def state(self) -> BranchState | None:
        """The state that was said. What comes with `retry` says nothing."""
        answer = self.answer
        return None if answer is None or answer.retry else answer.state

    @property
    def wants_retry(self) -> bool:
        """Whether a coordinator would send the same again: it is told to, or nobody knows whether it arrived."""
        answer = self.answer
        return self.is_unserved or (answer is not None and answer.retry)

    @property
    def is_unserved(self) -> bool:
        """Whether it could not be taken now, or nobody was reached."""
        return self.status == 503 or self.unreachable

    @property
    def is_refusal(self) -> bool:
        """Whether the request was said to be wrong (4xx)."""
        return self.status is not None and 400 <= self.status < 500

    def curl(self) -> str:
        """The request as a line for a shell; it says so where a long body is cut, or msgpack is asked in JSON."""
        words = ["curl", "-s"]
        if self.method != "GET":
            words += ["-X", self.method]
        words.append(self.url)
        is_msgpack = self.content_type == MSGPACK
        if self.accept != JSON and not is_msgpack:
            words += ["-H", f"Accept: {self.accept}"]
        if self.data is not None:
            kind = JSON if is_msgpack else self.content_type
            words += ["-H", f"Content-Type: {kind}", "-d", _shown(_text(self.data, self.content_type))]
        line = " ".join(shlex.quote(word) for word in words)
        return f"{line}  # sent as msgpack" if is_msgpack else line

    def said(self) -> str:
        """The answer in one line."""
        if self.status is None:
            return f"no answer: {self.failure}"
        return f"{self.status} {_shown(' '.join(self.text.split()))}".rstrip()


class Talk:
    """One participant at `url`. To be used between `start` and `stop`; `exchanges` is everything that was said."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.exchanges: list[Exchange] = []
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open a session, with connections of its own."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0),
        )

    async def stop(self) -> None:
        """Close it; what is under way is given up."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(self, path: str, accept: str = JSON) -> Exchange:
        return await self._send(Exchange("GET", self.url + path, accept=accept))

    async def post(self, path: str, form: Any = None) -> Exchange:
        """`form` as JSON; None: no body at all."""
        return await self.post_data(path, None if form is None else json.dumps(form).encode())

    async def post_data(self, path: str, data: bytes | None, content_type: str = JSON, accept: str = JSON) -> Exchange:
        return await self._send(Exchange("POST", self.url + path, data, content_type, accept))

    async def branch(self, key: BranchKey, verb: Verb, form: Any = None, kind: str = JSON) -> Exchange:
        """One operation on a branch. `kind`: the content type of the request and of its answer."""
        path = branch_path(key, verb)
        if verb is Verb.OUTCOME:
            return await self.get(path)
        if kind == JSON:
            return await self.post(path, form)
        return await self.post_data(path, msgpack.packb(form), kind, kind)

    def socket(self, path: str, protocol: str) -> Any:
        """A WebSocket, to be entered."""
        return self._open.ws_connect(URL(self.url + path, encoded=True), protocols=(protocol,))

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("a Talk is used between start and stop")
        return self._session

    async def _send(self, exchange: Exchange) -> Exchange:
        """Do it, and fill in what came of it."""
        self.exchanges.append(exchange)
        headers = {"Accept": exchange.accept} | (
            {"Content-Type": exchange.content_type} if exchange.data is not None else {}
        )
        try:
            async with self._open.request(
                exchange.method,
                URL(exchange.url, encoded=True),
                data=None if exchange.data is None else io.BytesIO(exchange.data),
                headers=headers,
                skip_auto_headers=("Content-Type",),
                allow_redirects=False,
            ) as response:
                exchange.text = _text(await read_bounded(response.content, ANSWER_BYTES_MAX), response.content_type)
                exchange.status, exchange.said_type = response.status, response.content_type
        except TimeoutError:
            exchange.failure = f"nothing within {REQUEST_TIMEOUT_S:g} s: it hangs"
        except asyncio.CancelledError:
            exchange.failure = "not waited for"
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            exchange.failure = str(error) or type(error).__name__
            exchange.unreachable = True
        return exchange


def _text(data: bytes, content_type: str) -> str:
    """What was sent or said; msgpack as the JSON of the same."""
    if content_type != MSGPACK:
        return data.decode(errors="replace")
    try:
        return json.dumps(msgpack.unpackb(data), ensure_ascii=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return repr(data)


def _shown(text: str) -> str:
    """Not too much of it, and nothing that a terminal would obey."""
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    if len(text) <= SHOWN_CHARS_MAX:
        return text
    return f"{text[:SHOWN_CHARS_MAX]}… (cut: {len(text):,} characters)"
