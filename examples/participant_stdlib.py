"""A participant in plain Python: the standard library only, nothing of ours. A copy to start from, in any language.

    python participant_stdlib.py --port 9005 --data shelf.db --stock mug=100 --replica http://127.0.0.1:8001

Its one action is `reserve {item, pieces}`. The numbers in the comments are those of "What a participant must keep" in
docs/reference/participant-api.md. `commitd check-participant` tries whether they hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sqlite3
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

NAME = "shelf"
BODY_BYTES_MAX = 65_536  # of an action
REQUEST_BYTES_MAX = BODY_BYTES_MAX + 1_024
DRAIN_BYTES_MAX = 8 << 20  # of a request that is too large: read and thrown away, so that the refusal is heard
GRACE_S = 5.0  # a branch that is prepared for longer is asked for
ASK_TIMEOUT_S = 3.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS shelf (item TEXT PRIMARY KEY, pieces INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS branches (gid TEXT, branch TEXT, state TEXT NOT NULL, digest TEXT NOT NULL,
    reason TEXT NOT NULL, item TEXT, pieces INTEGER, left_over INTEGER, PRIMARY KEY (gid, branch));
"""
NAME_OF_BRANCH = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
CAPABILITIES = {  # what is not said here, such as read_only and arrays, is never asked for
    "name": NAME,
    "version": 1,
    "prevent": True,
    "one_phase": True,
    "body_bytes_max": BODY_BYTES_MAX,
    "actions": ["reserve"],
}


class Refused(Exception):
    """A request that gets no vote: an HTTP status, and why."""


class Shelf:
    """The rows, and the branches beside them in the same database: one local transaction writes both, or neither."""

    def __init__(self, path, stock=()):
        self.lock = threading.Lock()  # one operation at a time, so that of two at once one comes first for both
        # Recovery is SQLite's: what was committed is there after any crash, what was not is gone. With these two, a
        # commit waits until it is on the disk, and the answer waits for the commit: an answer is a fact.
        self.database = sqlite3.connect(path, check_same_thread=False)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.executescript(SCHEMA)
        with self.database:
            self.database.executemany("INSERT OR IGNORE INTO shelf VALUES (?, ?)", stock)

    def perform(self, verb, key, form):
        """One operation; the answer is on the disk when this returns."""
        with (
            self.lock,
            self.database,
        ):  # the second ends the local transaction: commits it, or rolls it back if we raise
            state, digest, reason, left = self.find(key)
            match verb:
                case "outcome":
                    pass
                case "prepare":
                    return self.prepare(key, form, state, digest, reason, left)
                case "commit" if form.get("one_phase"):  # the vote and the commit are one local transaction
                    said = self.prepare(key, form, state, digest, reason, left)
                    return answer(*self.commit(key)) if state == "unknown" and said["state"] == "prepared" else said
                case "commit" if state == "prepared":
                    state, reason, left = self.commit(key)
                case "abort" if state in ("unknown", "prepared"):  # 3: an unknown one leaves a row, its tombstone
                    state, reason = self.write(key, "aborted", digest, "aborted by its coordinator")
                case "prevent" if state == "unknown":  # a yes is left alone
                    state, reason = self.write(key, "aborted", digest, "prevented before it was prepared")
            return answer(state, reason, left)  # 2: whatever comes again, or too late, hears how things are

    def find(self, key):
        sql = "SELECT state, digest, reason, left_over FROM branches WHERE gid = ? AND branch = ?"
        return self.database.execute(sql, key).fetchone() or ("unknown", "", "", None)

    def prepare(self, key, form, state, digest, reason, left):
        wanted = digest_of(form)
        if digest and digest != wanted:
            raise Refused(409, "the branch was asked for something else before")
        if state == "unknown":
            item, pieces, why = self.vote(form)
            state, reason = self.write(key, "aborted" if why else "prepared", wanted, why, item, pieces)
        return answer(state, reason, left)

    def vote(self, form):
        """The row to change and by how much, and why not, if the vote is a no. Nothing is changed before the commit."""
        body = form.get("body")
        if form.get("action") != "reserve":
            return None, None, f"{NAME} has no action {form.get('action')!r:.80}; it has reserve"
        if len(json.dumps(body)) > BODY_BYTES_MAX:
            return None, None, f"{NAME} takes bodies of at most {BODY_BYTES_MAX} bytes"
        item, pieces = (body.get("item"), body.get("pieces")) if isinstance(body, dict) else (None, None)
        is_item = isinstance(item, str) and 0 < len(item) <= 64 and item.isprintable()
        if not is_item or type(pieces) is not int or not 1 <= pieces <= 1_000:
            return None, None, "an item and 1 to 1000 pieces are wanted"
        # 4: a prepared branch holds its row. Whoever wants it could wait; to vote no is simpler, and `conflict: ` tells
        # the caller that trying again may help. After a restart the rows are held still: the table says so.
        if self.database.execute("SELECT 1 FROM branches WHERE state = 'prepared' AND item = ?", (item,)).fetchone():
            return None, None, f"conflict: {item} is held by another transaction"
        left = self.database.execute("SELECT pieces FROM shelf WHERE item = ?", (item,)).fetchone()
        if left is None or left[0] < pieces:
            return None, None, f"not enough {item}: {left[0] if left else 0} left"
        return item, pieces, ""

    def commit(self, key):
        """1: nothing can be in the way now, because the vote looked, and the row was held since.

        2: what is left over is the result. It is kept with the branch: to look again later would give another one.
        """
        self.database.execute(
            "UPDATE shelf SET pieces = shelf.pieces - b.pieces FROM branches b "
            "WHERE b.gid = ? AND b.branch = ? AND shelf.item = b.item",
            key,
        )
        self.database.execute(
            "UPDATE branches SET state = 'committed', left_over = shelf.pieces FROM shelf "
            "WHERE gid = ? AND branch = ? AND shelf.item = branches.item",
            key,
        )
        state, _, reason, left = self.find(key)
        return state, reason, left

    def write(self, key, state, digest, reason, item=None, pieces=None):
        """The branch as it is from now on. It is never removed here; a real service may do so after a day or more."""
        sql = "INSERT OR REPLACE INTO branches VALUES (?, ?, ?, ?, ?, ?, ?, NULL)"
        self.database.execute(sql, (*key, state, digest, reason, item, pieces))
        return state, reason

    def in_doubt(self):
        with self.lock:
            rows = self.database.execute("SELECT gid, branch FROM branches WHERE state = 'prepared' ORDER BY rowid")
            return [{"gid": gid, "branch": branch} for gid, branch in rows]

    def pieces(self):
        with self.lock:
            return dict(self.database.execute("SELECT item, pieces FROM shelf"))


def answer(state, reason, left=None):
    said = {"state": state, "reason": reason, "result": None if left is None else {"left": left}}
    return {field: value for field, value in said.items() if value}


def digest_of(form):
    """What a branch is bound to, so that another request under its name is refused."""
    text = json.dumps([form.get("action"), form.get("body")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """HTTP. Every error is one that says so: nothing but 200 with a state is ever taken for a vote."""

    protocol_version = "HTTP/1.1"  # connections stay
    timeout = 30.0  # seconds; who says nothing for so long must not keep a thread
    wbufsize = -1  # an answer leaves as one piece

    def do_GET(self):
        shelf = self.server.shelf
        pages = {
            "/livez": lambda: "ok",
            "/v1/capabilities": lambda: CAPABILITIES,
            "/v1/in-doubt": lambda: {"branches": shelf.in_doubt()},
            "/v1/shelf": shelf.pieces,
        }
        if self.path in pages:
            self.reply(200, pages[self.path]())
        else:
            self.operate(("outcome",), {})

    def do_POST(self):
        try:
            form = self.read_form()
        except Refused as no:
            return self.reply(*no.args)
        return self.operate(("prepare", "commit", "abort", "prevent"), form)

    def operate(self, verbs, form):
        try:
            self.reply(200, self.server.shelf.perform(*self.route(verbs), form))
        except Refused as no:
            self.reply(*no.args)
        except sqlite3.Error as error:  # nobody knows what was done; the coordinator asks again
            self.reply(503, f"the database cannot work now: {error}")

    def route(self, verbs):
        match unquote(self.path).split("/"):
            case ["", "v1", "branches", gid, branch, verb] if verb in verbs:
                if NAME_OF_BRANCH.fullmatch(gid) and NAME_OF_BRANCH.fullmatch(branch):
                    return verb, (gid, branch)
                raise Refused(400, "gid and branch must be 1 to 64 of A-Z a-z 0-9 _ . : -")
        raise Refused(404, "there is no such path, or not with this method")

    def read_form(self):
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refused(411, "the length of the body must be said")
        if int(length) > REQUEST_BYTES_MAX:
            self.close_connection = True
            left = min(int(length), DRAIN_BYTES_MAX)
            while left and (piece := self.rfile.read(min(left, 65_536))):
                left -= len(piece)
            raise Refused(413, f"a request may have {REQUEST_BYTES_MAX} bytes")
        data = self.rfile.read(int(length))
        if data and self.headers.get_content_type() != "application/json":
            raise Refused(415, "the content type must be application/json")
        try:
            form = json.loads(data or b"{}")
            digest_of(form if isinstance(form, dict) else {})  # what cannot be written again is refused here
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON that we can read: {error}") from error
        if not isinstance(form, dict) or not is_action(form.get("action")):
            raise Refused(400, "the body must be an object, and its action text of 1 to 64 characters")
        if not isinstance(form.get("one_phase", False), bool):
            raise Refused(400, "one_phase must be true or false")
        return form

    def reply(self, status, value):
        content = value if isinstance(value, dict) else {"status": status, "detail": value}
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing of each request."""


def is_action(action):
    return action is None or (isinstance(action, str) and 0 < len(action) <= 64)


def ask_for_ever(shelf, replicas):
    """5: a prepared branch decides nothing by itself. If its coordinator is silent for long, ask any replica."""
    seen = {}
    while True:
        prepared = [(each["gid"], each["branch"]) for each in shelf.in_doubt()]
        seen = {key: seen.get(key, time.monotonic()) for key in prepared}
        for key in [key for key, since in seen.items() if time.monotonic() - since >= GRACE_S]:
            outcome = next(filter(None, (ask(replica, key) for replica in replicas)), None)
            verb = {"committed": "commit", "aborted": "abort"}.get(outcome)  # else it is not known yet: ask again
            if verb is not None:
                shelf.perform(verb, key, {})
        time.sleep(1.0)


class Redirects(urllib.request.HTTPRedirectHandler):
    """A replica that does not lead sends us to the one that does: 307, the same question there."""

    def redirect_request(self, request, _file, _code, _message, _headers, url):
        return urllib.request.Request(url, request.data, request.headers)


def ask(replica, key):
    """How the transaction ended, by one replica; None if it does not say."""
    gid, branch = key
    question = json.dumps({"participant": NAME, "branch": branch}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(f"{replica}/v1/transactions/{gid}/outcome", question, headers)
    try:
        with urllib.request.build_opener(Redirects).open(request, timeout=ASK_TIMEOUT_S) as response:
            said = json.load(response)
    except (OSError, ValueError):
        return None
    return said.get("outcome") if isinstance(said, dict) and said.get("gid") == gid else None


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that wait to be accepted


def main(shelf_of=Shelf, handler=Handler):
    parser = argparse.ArgumentParser(description="A participant in plain Python.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", required=True, help="the SQLite file")
    parser.add_argument(
        "--stock", action="append", default=[], metavar="ITEM=PIECES", help="put there at the first start"
    )
    parser.add_argument("--replica", action="append", default=[], help="the client URL of a coordinator")
    options = parser.parse_args()
    stock = [(item, int(pieces)) for item, _, pieces in (each.partition("=") for each in options.stock)]
    server = Server((options.host, options.port), handler)
    server.shelf = shelf_of(options.data, stock)
    threading.Thread(target=ask_for_ever, args=(server.shelf, options.replica), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
