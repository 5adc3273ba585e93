"""What a request asks for: by whom, in which queue, with which content; each checked."""

import json
import re
from typing import Any
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from leukemia.app.queues import QUEUES

COOKIE = "leukemia_reviewer"
REQUEST = re.compile(r"[0-9A-Za-z-]{8,64}")


def reviewer_of(request: Request) -> str:
    """The name that the reviewer gave; empty for none."""
    return unquote(request.cookies.get(COOKIE, ""))[:60]


def check_reviewer(reviewer: str, given: dict[str, Any]) -> None:
    """Refuse what a window asks for that shows another reviewer than the browser has by now.

    Raises:
        HTTPException: then.
    """
    if given.get("reviewer", reviewer) != reviewer:
        raise HTTPException(
            409, f"{reviewer} reviews in this browser now: nothing is written; load the page again."
        )


def queue_of(name: Any) -> str:
    """The queue of this name, or the first."""
    return name if name in QUEUES else QUEUES[0]


def request_id(given: dict[str, Any]) -> str:
    """What tells one decision that is sent twice from two.

    Raises:
        HTTPException: if there is none.
    """
    request = given.get("request")
    if not isinstance(request, str) or not REQUEST.fullmatch(request):
        raise HTTPException(400, "a decision comes with an id of its own")
    return request


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object that a request brings, of 10,000 bytes at most; only where it says that it is JSON, which no
    other site's form can.

    Raises:
        HTTPException: if it is none.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "this address takes JSON")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > 10_000:
            raise HTTPException(413, "this is too long")
    try:
        given = json.loads(content)
    except ValueError:
        raise HTTPException(400, "this is no JSON") from None
    if not isinstance(given, dict):
        raise HTTPException(400, "this is no JSON object")
    return given
