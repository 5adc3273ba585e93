"""The routes of the review page and their handlers."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from leukemia.app.cells import Cell
from leukemia.app.dashboard import dashboard_metrics
from leukemia.app.decisions import ARTEFACT, CHOICES, LONGEST_COMMENT, POOR_QUALITY
from leukemia.app.export import decisions_csv, manifest
from leukemia.app.payloads import cell_payload, progress_payload
from leukemia.app.pictures import Pictures
from leukemia.app.queues import following
from leukemia.app.requests import (
    COOKIE,
    check_reviewer,
    is_name,
    json_body,
    queue_name,
    read_body,
    request_id,
    reviewer_name,
)
from leukemia.app.review import Review
from leukemia.app.scoring_worker import ScoringWorker
from leukemia.app.security import SecurityMiddleware
from leukemia.app.shortcuts import class_shortcuts
from leukemia.app.texts import MEANINGS, NOTICE, duration, leaning, policy_text, size_text
from leukemia.app.uploads import MAX_BYTES, checked_name, decoded, too_large
from leukemia.errors import InputError

HERE = Path(__file__).parent
MOST_UPLOADS = 8  # at once, each with a file in memory
YEAR = 365 * 24 * 3600


def create_app(
    review: Review, worker: ScoringWorker, pictures: Pictures, token: str | None = None, port: int = 0
) -> Starlette:
    """The review page as an ASGI application.

    Args:
        review: a run and its decisions.
        worker: scores added pictures.
        pictures: of the cells.
        token, port: see `SecurityMiddleware`.
    """
    pages = _Pages(review, worker, pictures)
    return Starlette(
        routes=[
            Route("/", pages.review_page),
            Route("/dashboard", pages.dashboard),
            Route("/api/cell", pages.cell),
            Route("/api/changes", pages.changes),
            Route("/api/decisions", pages.decide, methods=["POST"]),
            Route("/api/undo", pages.undo, methods=["POST"]),
            Route("/api/reviewer", pages.set_reviewer, methods=["POST"]),
            Route("/api/pictures", pages.add_picture, methods=["POST"]),
            Route("/cells/{cell:str}.png", pages.picture),
            Route("/cells/{cell:str}/thumb.png", pages.thumb),
            Route("/cells/{cell:str}/overlay.png", pages.overlay),
            Route("/export/decisions.csv", pages.decisions),
            Route("/export/manifest.csv", pages.manifest),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[Middleware(SecurityMiddleware, token=token, port=port)],
        exception_handlers={InputError: _refuse, HTTPException: _http},
    )


class _Pages:
    def __init__(self, review: Review, worker: ScoringWorker, pictures: Pictures) -> None:
        self.review, self.worker, self.pictures = review, worker, pictures
        self.store = review.store
        self.meanings = MEANINGS if set(review.classes) == set(MEANINGS) else {}
        self.uploads, self.turns = 0, threading.Lock()
        self.environment = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self.environment.filters |= {
            "percent": _percent,
            "signed": _signed,
            "points": _points,
            "duration": duration,
        }

    def review_page(self, request: Request) -> Response:
        queue = queue_name(request.query_params.get("queue"))
        low, high = self.review.thresholds()
        threading.Thread(target=self.pictures.network.prepare, daemon=True).start()
        return self._html(
            "review.html.j2", request, queue=queue, low=low, high=high, keys=class_shortcuts(self.review.classes),
            last=self.store.last_id(), is_calibrated=self.review.is_calibrated, references=self._references(),
            longest_comment=LONGEST_COMMENT, artefact=ARTEFACT, poor_quality=POOR_QUALITY,
        )  # fmt: skip

    def _references(self) -> dict[str, list[tuple[str, str]]]:
        """Ids and sizes of the reference cells of each class."""
        found: dict[str, list[tuple[str, str]]] = {name: [] for name in self.review.classes}
        for cell in self.review.references.values():
            if cell.id not in self.review.cells and cell.label is not None:
                size = size_text(self.pictures.diameter(cell.id), cell.um_per_pixel)
                found[cell.label].append((cell.id, size))
        return found

    def dashboard(self, request: Request) -> Response:
        return self._html("dashboard.html.j2", request, queue="", metrics=dashboard_metrics(self.review),
                          last=self.store.last_id())  # fmt: skip

    def cell(self, request: Request) -> Response:
        """The cell `at`; without it, the next undecided cell of the queue after the cell `after`."""
        reviewer, query = self._reviewer(request), request.query_params
        queue = queue_name(query.get("queue"))
        at, after = query.get("at"), query.get("after")
        chosen = self.review.cells.get(at) if at else None
        return JSONResponse(self._state(reviewer, queue, chosen or self._next(reviewer, queue, after)))

    def changes(self, request: Request) -> Response:
        """The changes after the decision `since`, by any reviewer."""
        reviewer, query = self._reviewer(request), request.query_params
        since = query.get("since", "0")
        if not (since.isascii() and since.isdecimal() and len(since) < 16):
            raise HTTPException(400, "since has to be the number of a decision")
        history = self.store.history(int(since))
        return JSONResponse({
            "last": history[-1].id if history else int(since),
            "reviewer": reviewer,
            "cells": sorted({decision.cell for decision in history}),
            "progress": progress_payload(self.review, reviewer, queue_name(query.get("queue"))),
            "pending": self.worker.pending,
            "problems": self.worker.problems,
            "stopped": self.store.problem,
        })  # fmt: skip

    async def decide(self, request: Request) -> Response:
        body = await json_body(request)
        return await run_in_threadpool(self._decide, self._reviewer(request), body)

    def _decide(self, reviewer: str, body: dict[str, Any]) -> Response:
        check_reviewer(reviewer, body)
        cell = self._cell(body.get("cell"))
        queue, label, seconds = queue_name(body.get("queue")), body.get("label"), body.get("seconds")
        possible = (*self.review.classes, *CHOICES)
        if label not in possible:
            raise HTTPException(400, f"the label has to be one of {', '.join(possible)}")
        comment = " ".join(str(body.get("comment", "")).split())
        if len(comment) > LONGEST_COMMENT or not comment.isprintable():
            raise HTTPException(400, f"a comment has at most {LONGEST_COMMENT} letters")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e6:
            seconds = None
        # The page shows the opinion after a decision: only the first decision on a cell can be blind.
        hidden = self.review.blind or bool(body.get("blind"))
        blind = hidden and cell.id not in self.store.current(reviewer)
        queue_of = "picked" if body.get("picked") is True else queue
        context = self.review.context(cell, queue_of, blind, seconds, comment)
        self.store.decide(reviewer, context, str(label), request_id(body))
        opinion = leaning(self.review.opinion(cell).probability, self.review.classes)
        return JSONResponse(
            self._state(reviewer, queue, self._next(reviewer, queue, cell.id)) | {"leaning": opinion}
        )

    async def undo(self, request: Request) -> Response:
        body = await json_body(request)
        return await run_in_threadpool(self._undo, self._reviewer(request), body)

    def _undo(self, reviewer: str, body: dict[str, Any]) -> Response:
        check_reviewer(reviewer, body)
        queue = queue_name(body.get("queue"))
        undone = self.store.undo(reviewer, request_id(body))
        if undone is None:
            raise HTTPException(409, "There is nothing to undo.")
        cell = self.review.cells.get(undone.cell) or self._next(reviewer, queue, None)
        return JSONResponse(self._state(reviewer, queue, cell) | {"undone": undone.new_label})

    async def set_reviewer(self, request: Request) -> Response:
        name = " ".join(str((await json_body(request)).get("name", "")).split())
        if not is_name(name):
            raise HTTPException(
                400, "Give a name of 1 to 60 letters that does not begin with one of = + - @."
            )
        answer = JSONResponse({"reviewer": name})
        answer.set_cookie(COOKIE, quote(name), max_age=YEAR, samesite="lax", httponly=True)
        return answer

    async def add_picture(self, request: Request) -> Response:
        self._reviewer(request)
        name = checked_name(request.query_params.get("name", ""))
        if self.uploads >= MOST_UPLOADS:
            raise HTTPException(429, f"{name}: too many uploads at once; try again in a moment")
        self.uploads += 1
        try:
            content = await read_body(request, MAX_BYTES, too_large(name))
            cell_id, new = await run_in_threadpool(self._add, content, name)
        finally:
            self.uploads -= 1
        return JSONResponse({"cell": cell_id, "new": new}, status_code=202 if new else 200)

    def _add(self, content: bytes, name: str) -> tuple[str, bool]:
        with self.turns:  # pixels of one picture at a time
            return self.worker.add(decoded(content, name), name)

    def picture(self, request: Request) -> Response:
        return self._picture(request, self.pictures.full)

    def thumb(self, request: Request) -> Response:
        return self._picture(request, self.pictures.thumb)

    def overlay(self, request: Request) -> Response:
        cell = self._cell(request.path_params["cell"])
        if self.review.blind and cell.id not in self.store.labels(self._reviewer(request)):
            raise HTTPException(403, "This review is blind: decide the cell first.")
        picture, places = self.pictures.overlay(cell.id)
        return _png(picture, {"x-places": str(places)})

    def decisions(self, request: Request) -> Response:
        return _download(decisions_csv(self.store), "decisions.csv")

    def manifest(self, request: Request) -> Response:
        training = request.query_params.get("with") == "training"
        name = "manifest-with-training.csv" if training else "manifest.csv"
        return _download(manifest(self.review, training), name)

    def _picture(self, request: Request, draw: Callable[[str], bytes]) -> Response:
        cell_id = request.path_params["cell"]
        if self.pictures.cell(cell_id) is None:
            raise HTTPException(404, "There is no such cell.")
        return _png(draw(cell_id))

    def _state(self, reviewer: str, queue: str, cell: Cell | None) -> dict[str, Any]:
        payload = None
        if cell is not None:
            payload = cell_payload(self.review, cell, reviewer, queue, self.pictures.diameter(cell.id))
        return {"cell": payload, "progress": progress_payload(self.review, reviewer, queue)}

    def _next(self, reviewer: str, queue: str, after: str | None) -> Cell | None:
        found = next(following(self.review.queues[queue], self.store.labels(reviewer), after), None)
        return None if found is None else self.review.cells[found]

    def _cell(self, cell_id: Any) -> Cell:
        cell = self.review.cells.get(cell_id) if isinstance(cell_id, str) else None
        if cell is None:
            raise HTTPException(404, "There is no such cell.")
        return cell

    def _reviewer(self, request: Request) -> str:
        name = reviewer_name(request)
        if not name:
            raise HTTPException(400, "Give your name first.")
        return name

    def _html(self, template: str, request: Request, **values: Any) -> Response:
        headline, explanation, is_tight = policy_text(self.review.policy, self.review.classes)
        page = self.environment.get_template(template).render(
            run=self.review.run.name, classes=self.review.classes, reviewer=reviewer_name(request),
            known=self.store.reviewers(), headline=headline, explanation=explanation, is_tight=is_tight,
            notice=NOTICE, added=len(self.review.queues["added"]), blind=self.review.blind, meanings=self.meanings,
            **values,
        )  # fmt: skip
        return HTMLResponse(page)


def _download(text: str, name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


def _png(picture: bytes, headers: dict[str, str] | None = None) -> Response:
    kept = {"cache-control": "private, max-age=3600, immutable"}  # an id is a hash of the pixels
    return Response(picture, media_type="image/png", headers=kept | (headers or {}))


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=422)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _points(share: float) -> str:
    return f"{100 * share:+z.0f}".replace("+0", "0").replace("-", "\N{MINUS SIGN}")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
