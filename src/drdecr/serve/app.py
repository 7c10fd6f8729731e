"""An index and its model over HTTP: `/search`, `/encode`, `/rerank`, `/health`; described at `/docs` and `/openapi.json`."""

import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import BaseModel, Field

from drdecr import __version__
from drdecr.retrieval.retriever import RetrievedDocument, Retriever, TranslationError

from .batching import Batcher, BusyError
from .requests import EncodeRequest, RequestAnswerer, RerankRequest, SearchRequest

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from fastapi.security import APIKeyHeader
except ImportError as error:
    raise ImportError("`drdecr serve` needs FastAPI and uvicorn: `pip install drdecr[serve]`.") from error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """What a server allows.

    Args:
        api_key: asked for in the header `X-API-Key`; None: nobody is asked for one.
        max_body_bytes: of a request.
        max_batch: requests answered together.
        max_waiting: requests that may wait; the next is refused with status 503.
        wait: seconds that a request waits for others to be answered with.

    Raises:
        ValueError: for a key that no header can hold.
    """

    api_key: str | None = None
    max_body_bytes: int = 2 * 2**20
    max_batch: int = 32
    max_waiting: int = 256
    wait: float = 0.005

    def __post_init__(self) -> None:
        """Check the key: an empty one would let everybody in, one with blanks around it nobody."""
        key = self.api_key
        if key is not None and (not key.isprintable() or key != key.strip() or not key):
            raise ValueError(
                "--api-key: expected one line without blanks around it, got an empty or another one. Write a key, or leave the "
                "option out to ask for none."
            )


class SearchResponse(BaseModel):
    """For each question its documents, best first, and its translation where the server translates first."""

    results: list[list[RetrievedDocument]]
    searched_for: list[str] | None = Field(None, description="The questions' translations, which were searched for.")


class EncodeResponse(BaseModel):
    """For each text one vector a token that scores."""

    embeddings: list[list[list[float]]]


class RerankResponse(BaseModel):
    """MaxSim of each passage, in the order given, and the order from best to worst."""

    scores: list[float]
    order: list[int]


class Health(BaseModel):
    """State of the server, and what it has done since it started."""

    status: str
    passages: int
    version: str
    waiting: int = Field(description="Requests that wait for their batch.")
    refused: int = Field(description="Requests answered with status 503.")
    batches: dict[int, int] = Field(description="Requests answered together, and how often so many were.")


def create_app(retriever: Retriever, settings: ServerSettings | None = None) -> FastAPI:
    """Make the application.

    Args:
        retriever: answers the questions, in one step or by a translation first.
        settings: default: no key, requests of 2 MiB.
    """
    settings = settings or ServerSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        answerer = RequestAnswerer(retriever)
        async with Batcher(answerer.answer, settings.max_batch, settings.max_waiting, settings.wait) as batcher:
            app.state.batcher, app.state.answerer = batcher, answerer
            yield

    app = FastAPI(title="drdecr", version=__version__, lifespan=lifespan, summary="Search in many languages.")
    app.middleware("http")(limit_bodies(settings.max_body_bytes))
    _handle_errors(app)
    _add_routes(app, [Depends(key_check(settings.api_key))])
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    @app.exception_handler(ValueError)
    async def refused(request: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(TranslationError)
    async def untranslated(request: Request, error: TranslationError) -> JSONResponse:
        logger.warning("%s", error)
        return JSONResponse({"detail": str(error)}, 502)

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        """Tell what is wrong and where. What came stays out: it may be large, and may be NaN or no UTF-8 at all."""
        problems = [{name: one[name] for name in ("type", "loc", "msg")} for one in error.errors()]
        return Response(
            json.dumps({"detail": problems}), 422, media_type="application/json"
        )  # ASCII, whatever the names


def _add_routes(app: FastAPI, checked: list[Any]) -> None:
    failures: dict[int | str, dict[str, Any]] = {
        400: {"description": "A request that cannot be answered."},
        401: {"description": "Without the key."},
        411: {"description": "Without the header Content-Length."},
        413: {"description": "Too large."},
        502: {"description": "The translator failed."},
        503: {"description": "Too many wait already."},
    }

    # What is unset stays out: a server that does not translate answers as if there were no translations.
    @app.post("/search", dependencies=checked, responses=failures, response_model_exclude_unset=True)
    async def search(body: SearchRequest, request: Request) -> SearchResponse:
        """Find documents for questions in any language."""
        answers = await request.app.state.batcher.submit(body)
        translations = [answer.searched_for for answer in answers if answer.searched_for is not None]
        documents = [answer.found for answer in answers]
        return SearchResponse(results=documents, **({"searched_for": translations} if translations else {}))

    @app.post("/encode", dependencies=checked, responses=failures)
    async def encode(body: EncodeRequest, request: Request) -> EncodeResponse:
        """Encode texts as queries or as documents."""
        return EncodeResponse(embeddings=await request.app.state.batcher.submit(body))

    @app.post("/rerank", dependencies=checked, responses=failures)
    async def rerank(body: RerankRequest, request: Request) -> RerankResponse:
        """Order passages by how well they answer a question."""
        scores = await request.app.state.batcher.submit(body)
        return RerankResponse(scores=scores, order=sorted(range(len(scores)), key=lambda row: -scores[row]))

    @app.get("/health")
    async def health(request: Request) -> Health:
        """Tell that the server answers."""
        batcher = request.app.state.batcher
        return Health(
            status="ok",
            passages=request.app.state.answerer.num_passages,
            version=__version__,
            waiting=batcher.num_waiting,
            refused=batcher.refused,
            batches=dict(batcher.sizes),
        )


def key_check(api_key: str | None) -> Callable[[str | None], None]:
    """Return a dependency that refuses requests without the key; of a server without one, none."""
    header = APIKeyHeader(name="X-API-Key", auto_error=False)

    def check(given: Annotated[str | None, Depends(header)]) -> None:
        # Headers are decoded as latin-1 whatever the client wrote; the bytes are what it wrote.
        if api_key is not None and not secrets.compare_digest((given or "").encode("latin-1"), api_key.encode()):
            raise HTTPException(401, "Expected the key in the header X-API-Key.")

    return check


def limit_bodies(
    max_bytes: int,
) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Return a middleware that refuses larger bodies before they are read, and those that do not say how large they are."""

    async def limited(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length")
        if length is None and request.headers.get("transfer-encoding"):
            return JSONResponse({"detail": "Expected the header Content-Length."}, 411)
        if length is not None and (not length.isdigit() or int(length) > max_bytes):
            return JSONResponse({"detail": f"Expected at most {max_bytes} bytes. Send fewer texts."}, 413)
        return await call_next(request)

    return limited


def make_server(retriever: Retriever, settings: ServerSettings, host: str, port: int) -> uvicorn.Server:
    """Return a server that runs until SIGTERM or Ctrl-C; what has been asked by then is still answered, in 30 seconds at most."""
    app = create_app(retriever, settings)
    if settings.api_key is None and not _is_this_machine(host):
        logger.warning("Whoever reaches %s may ask: no key is asked for. Set one: DRDECR_API_KEY.", host)
    return uvicorn.Server(uvicorn.Config(app, host=host, port=port, timeout_graceful_shutdown=30, log_level="info"))


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
