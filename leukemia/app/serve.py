"""`leukemia app`: start the review page of a run."""

import os
import secrets
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from leukemia.app.decoding import give_memory_back
from leukemia.app.network_process import NetworkProcess
from leukemia.app.pictures import Pictures
from leukemia.app.protocol import MOST_CONNECTIONS, BoundedProtocol
from leukemia.app.review import Review
from leukemia.app.routes import create_app
from leukemia.app.scoring_worker import ScoringWorker
from leukemia.app.security import is_loopback
from leukemia.errors import InputError
from leukemia.runs import Ensemble, Run
from leukemia.terminal import show

PORT = 8765
TOKEN = "LEUKEMIA_APP_TOKEN"
SHORTEST_TOKEN = 16


def serve(
    model: Run | Ensemble,
    images: Path | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    blind: bool = False,
) -> int:
    """Serve the review page of a run or an ensemble until Ctrl-C, and print its address.

    Args:
        model: the run or the ensemble.
        images: see `Review`.
        host: the address to bind to. Any address but this machine's own needs a token: from LEUKEMIA_APP_TOKEN, else a
            random one, which is printed.
        port: to bind to; 0 for any free port.
        blind: see `Review`.

    Raises:
        InputError: if the run, the pictures, the address or the token cannot be used.
    """
    give_memory_back()
    token = chosen_token(host)
    listening = _listen(host, port)
    with listening:
        port = listening.getsockname()[1]
        review = Review(model, images, blind)
        network = NetworkProcess(*(run.folder for run in model.members))
        worker = ScoringWorker(review, network.scores)
        try:
            worker.restore()
            if images is not None and review.root is None:
                show(f"Scoring {worker.scan(images):,} pictures of {images}.")
            app = create_app(review, worker, Pictures(review, network), token, port)
            shown = f"[{host}]" if ":" in host else host
            show(
                f"Review of {review.run.name}: {len(review.cells):,} cells, {len(review.queues['review']):,} to review"
            )
            show(f"Decisions are saved in {review.folder}")
            show(f"http://{shown}:{port}/" + (f"?token={token}" if token else ""))
            sys.stdout.flush()  # a browser may be waiting for the address
            server(app).run(sockets=[listening])
        finally:
            worker.close()
            network.close()
            review.store.close()
    return 0


def chosen_token(host: str) -> str | None:
    """The token that requests need; None where the page serves this machine only and no token was given.

    Raises:
        InputError: if the given token is too short to be a secret.
    """
    given = os.environ.get(TOKEN, "")
    if given and (len(given) < SHORTEST_TOKEN or not given.isascii() or not given.isalnum()):
        raise InputError(
            f"{TOKEN} is not a token: give at least {SHORTEST_TOKEN} letters and digits, or unset it"
        )
    if given:
        return given
    return None if is_loopback(host) else secrets.token_hex(16)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} is out of range: use 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port} ({error.strerror}): give another --port or --host"
        ) from None


def server(app: Starlette) -> uvicorn.Server:
    """The server of the page, with its limits. It logs errors only: anybody could fill a log of warnings."""
    config = uvicorn.Config(
        app, http=BoundedProtocol, log_level="error", access_log=False, ws="none", lifespan="off",
        timeout_graceful_shutdown=2, timeout_keep_alive=5, h11_max_incomplete_event_size=16_384,
        limit_concurrency=2 * MOST_CONNECTIONS, server_header=False,
    )  # fmt: skip
    return uvicorn.Server(config)
