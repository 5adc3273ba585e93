"""Read and check the parts of a request: reviewer, queue, request id, JSON body."""

import json
import re
from typing import Any
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from leukemia.app.queues import QUEUES

COOKIE = "leukemia_reviewer"
MAX_JSON = 10_000  # bytes
REQUEST_ID = re.compile(r"[0-9A-Za-z-]{8,64}")


def reviewer_name(request: Request) -> str:
    """The reviewer's name from the cookie; empty where there is none that `is_name` allows."""
    name = unquote(request.cookies.get(COOKIE, ""))
    return name if is_name(name) else ""


def is_name(name: str) -> bool:
    """Whether a text can be a reviewer's name: in one line, and not a formula for a spreadsheet."""
    return 0 < len(name) <= 60 and name.isprintable() and name == name.strip() and name[0] not in "=+-@"


def check_reviewer(reviewer: str, body: dict[str, Any]) -> None:
    """Refuse a request from a window that still shows another reviewer's name.

    Raises:
        HTTPException: if the two names differ.
    """
    if body.get("reviewer", reviewer) != reviewer:
        raise HTTPException(
            409, f"{reviewer} reviews in this browser now: nothing is written; load the page again."
        )


def queue_name(name: Any) -> str:
    """The name if there is such a queue, else the first queue."""
    return name if name in QUEUES else QUEUES[0]


def request_id(body: dict[str, Any]) -> str:
    """The id of a request. A decision that is sent twice has one id; two decisions have two.

    Raises:
        HTTPException: if there is none.
    """
    found = body.get("request")
    if not isinstance(found, str) or not REQUEST_ID.fullmatch(found):
        raise HTTPException(400, "a decision needs a request id of its own")
    return found


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body.

    The content type has to be JSON: a form of another site cannot send that.

    Raises:
        HTTPException: if the body is not a JSON object, or longer than MAX_JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "this address takes JSON")
    content = await read_body(request, MAX_JSON, HTTPException(413, "this is too long"))
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise HTTPException(400, "this is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "this is not a JSON object")
    return body


async def read_body(request: Request, most: int, error: Exception) -> bytes:
    """The body of a request. Raises the error if it has more than `most` bytes, before all of them have arrived."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise error
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise error
    return bytes(content)
