"""Requests that nobody sends by hand: each is answered with 4xx, and none occupies the page."""

import contextlib
import http.client
import inspect
import re
import socket
import threading
import time
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from leukemia.app import decoding, pictures, protocol, requests, routes
from leukemia.app.png import png_bytes


def connected(page):
    place = urlsplit(page.url)
    return socket.create_connection((place.hostname, place.port), timeout=10)


def test_a_malformed_origin_is_a_bad_request_and_a_foreign_one_is_refused(serve, run):
    page = serve(run)
    malformed = ("http://[", "http://[::1", "http://]", "//", "http://\u00ff", "http://[v1.x]", "", "http://a b",
                 "http://a/b", "a.example", "http://a:999999", "://a")  # fmt: skip
    foreign = ("null", "https://a.example", "http://[::1]:80", "chrome-extension://abc")
    for origin in (*malformed, *foreign):
        expected = 400 if origin in malformed else 403
        assert page.ask("POST", "/api/undo", {}, Origin=origin)[0] == expected, origin


@pytest.mark.parametrize(
    "content", ["[" * 1800, '{"a":' * 1600, "[" * 9999, "9" * 9999, '{"name": "\\ud800"}']
)
def test_malformed_json_is_a_bad_request(serve, run, content):
    status, _, _ = serve(run).ask("POST", "/api/reviewer", content.encode(), Content_Type="application/json")
    assert status == 400


@pytest.mark.parametrize(
    "name", ["=cmd()", "@sum", "-1", "+1", "a\u0000b", "a\nb", "x" * 61, " ", " Ann", "\u202e"]
)
def test_a_name_in_the_cookie_is_checked_like_one_that_is_typed(serve, run, name):
    page = serve(run)
    status, said, _ = page.ask("GET", "/api/cell", Cookie=f"leukemia_reviewer={quote(name)}")
    assert (status, said["error"]) == (400, "Give your name first.")


def test_half_open_connections_end_and_others_are_served_meanwhile(serve, run, monkeypatch, capfd):
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 10)
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 1.0)
    page = serve(run)
    begun = [connected(page) for _ in range(30)]
    for number, connection in enumerate(begun[20:]):
        connection.sendall(b"GET / HT" if number % 2 else b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
    assert page.ask("GET", "/api/cell")[0] == 200
    end = time.monotonic() + 10
    for connection in begun:
        connection.settimeout(max(0.1, end - time.monotonic()))
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()
    assert time.monotonic() < end
    assert capfd.readouterr().err == ""


def test_a_connection_that_is_kept_alive_may_wait_longer_than_a_header(serve, run, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.5)
    page = serve(run)
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=10)
    connection.connect()
    kept = connection.sock
    for _ in range(3):
        connection.request("GET", "/static/icon.svg")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read()
        time.sleep(1)
    assert connection.sock is kept
    connection.close()


def test_garbage_fills_no_log(serve, run, capfd):
    page = serve(run)
    for content in (
        b"\x16\x03\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    ):
        with connected(page) as connection:
            try:
                connection.sendall(content)
                assert not connection.recv(100).startswith(b"HTTP/1.1 5")
            except (ConnectionResetError, BrokenPipeError):
                pass
    assert capfd.readouterr().err == ""


def test_few_pictures_are_decoded_at_once(serve, run, monkeypatch):
    page, now, most = serve(run), [], []
    original = decoding.pixels.decode

    def decode(file):
        now.append(file)
        most.append(len(now))
        time.sleep(0.02)
        try:
            return original(file)
        finally:
            now.pop()

    monkeypatch.setattr(decoding.pixels, "decode", decode)
    contents = [png_bytes(Image.fromarray(np.full((50, 50, 3), seed, np.uint8))) for seed in range(20)]
    answers = []

    def upload(number):
        answers.append(page.ask("POST", f"/api/pictures?name={number}.png", contents[number])[0])

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(20)]
    threads += [
        threading.Thread(target=page.ask, args=("GET", f"/cells/{cell}.png"))
        for cell in list(page.review.cells)[:20]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= decoding.AT_ONCE
    assert set(answers) <= {202, 429}
    assert answers.count(202) >= routes.MOST_UPLOADS


ASKED = re.compile(r'(?:query|query_params|body|json_body\(request\)\))\.get\("(\w+)"')
KEYS = sorted({name for module in (routes, requests) for name in ASKED.findall(inspect.getsource(module))})
TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from(["ALL", "HEM", "unsure", "review"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.hypothesis
def test_no_request_ends_in_an_error_of_the_server(serve, run):
    """Every route and every key that a route asks for, read from the code: a new one is tried too."""
    page = serve(run)
    cells = list(page.review.cells)[:3]
    paths = [route.path for route in routes.create_app(page.review, page.worker, None).routes]
    assert {"cell", "label", "queue", "request", "since", "name", "reviewer"} <= set(KEYS)

    @settings(max_examples=max(150, settings.default.max_examples), suppress_health_check=list(HealthCheck))
    @given(
        path=st.sampled_from([*paths, "/static/{x}", "/{x}"]),
        part=TEXT | st.sampled_from([*cells, "..", "%2e%2e/x", "%ff", "%00"]),
        query=st.dictionaries(st.sampled_from(KEYS), TEXT | st.sampled_from([*cells, "9" * 30, "a.png"]), max_size=3),
        body=st.dictionaries(st.sampled_from(KEYS), JSON) | JSON | st.binary(max_size=30),
        cookie=TEXT,
        method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    )  # fmt: skip
    def ask(path, part, query, body, cookie, method):
        address = re.sub(r"\{.*?\}", part if "%" in part else quote(part, safe=""), path)
        asked = "&".join(f"{name}={quote(value, errors='replace')}" for name, value in query.items())
        if isinstance(body, dict) and body.get("cell") is None:
            body = {**body, "cell": cells[0], "request": "0123456789ab"}
        status, _, _ = page.ask(
            method, f"{address}?{asked}", None if method == "GET" else body,
            Cookie=f"leukemia_reviewer={quote(cookie, errors='replace') or 'Ann'}",
        )  # fmt: skip
        assert status < 500

    ask()
    assert page.ask("GET", "/")[0] == 200


def test_pictures_are_kept_by_their_bytes():
    drawn = []
    kept = pictures._Kept(lambda cell: drawn.append(cell) or bytes(10 * len(cell)), len, most=100)
    for cell in (
        "aaa",
        "bbb",
        "ccc",
        "aaa",
        "ddd",
    ):  # 30 bytes each: the fourth puts out bbb, unused for longest
        assert len(kept(cell)) == 30
    assert drawn == ["aaa", "bbb", "ccc", "ddd"]
    kept("aaa"), kept("bbb")
    assert drawn == ["aaa", "bbb", "ccc", "ddd", "bbb"]
    assert kept.size == 90
    assert len(kept("e" * 20)) == 200  # larger than all: given, not kept
    assert kept.size == 0
