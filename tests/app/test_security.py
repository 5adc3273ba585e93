import pytest

from leukemia.app.security import is_loopback

TOKEN = "0123456789abcdef0123"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.7", False), ("example.org", False)],
)  # fmt: skip
def test_loopback_addresses_are_recognised(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.2.evil.example",
        "",
        "127.0.0.1@evil",
    ],
)
def test_a_foreign_host_name_is_refused(serve, run, host):
    status, said, _ = serve(run).ask("GET", "/", Host=host)
    assert status == 403
    assert b"localhost only" in said


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "127.0.0.2:1", "[::1]:8765"])
def test_a_tunnel_to_this_machine_can_have_any_port(serve, run, host):
    assert serve(run).ask("GET", "/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},  # another program on this machine
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/api/decisions", "/api/undo", "/api/reviewer", "/api/pictures?name=a.png"])
def test_other_pages_cannot_change_anything(serve, run, headers, path):
    page = serve(run)
    status, said, _ = page.ask("POST", path, {"name": "Eve"}, **headers)
    assert status == 403
    assert b"does not come from the review page" in said
    assert page.review.store.history() == []


def test_every_address_needs_the_token(serve, run):
    page = serve(run, token=TOKEN)
    cell = next(iter(page.review.cells))
    addresses = [
        ("GET", "/"), ("GET", "/dashboard"), ("GET", "/api/cell"), ("GET", "/api/changes"), ("POST", "/api/decisions"),
        ("POST", "/api/undo"), ("POST", "/api/reviewer"), ("POST", "/api/pictures?name=a.png"),
        ("GET", f"/cells/{cell}.png"), ("GET", f"/cells/{cell}/thumb.png"), ("GET", f"/cells/{cell}/overlay.png"),
        ("GET", "/export/decisions.csv"), ("GET", "/export/manifest.csv"), ("GET", "/static/review.js"), ("GET", "/no"),
    ]  # fmt: skip
    for method, path in addresses:
        content = {} if method == "POST" else None
        assert page.ask(method, path, content)[0] == 401, path
        assert page.ask(method, path, content, Authorization="Bearer 0123456789abcdef0124")[0] == 401, path
        assert page.ask(method, path, content, Cookie=f"leukemia_token_1={TOKEN}")[0] == 401, path
        assert page.ask(method, path, content, Authorization=f"Bearer {TOKEN}")[0] not in (401, 403), path


def test_the_address_with_the_token_sets_a_cookie_and_drops_the_token(serve, run):
    page = serve(run, token=TOKEN)
    assert page.ask("GET", "/?token=wrong")[0] == 401
    status, _, headers = page.ask("GET", f"/dashboard?token={TOKEN}&queue=check")
    assert (status, headers["location"]) == (303, "/dashboard?queue=check")
    cookie = headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert page.ask("GET", "/dashboard", Cookie=cookie.partition(";")[0])[0] == 200


@pytest.mark.parametrize("path", ["//evil.example/", "///evil.example/", "/\\evil.example/"])
def test_the_token_redirects_to_this_machine_only(serve, run, path):
    status, _, headers = serve(run, token=TOKEN).ask("GET", f"{path}?token={TOKEN}")
    assert (status, headers["location"].replace("%5C", "\\")) == (303, "/evil.example/")


def test_with_a_token_the_machine_can_have_any_name(serve, run):
    page = serve(run, token=TOKEN)
    assert page.ask("GET", "/", Host="lab-7.example", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_the_browser_loads_nothing_from_elsewhere(serve, run):
    page = serve(run)
    for path in (
        "/",
        "/dashboard",
        "/static/review.js",
        "/no",
        f"/cells/{next(iter(page.review.cells))}.png",
    ):
        headers = page.ask("GET", path)[2]
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
