"""An index and its model over HTTP: `/search`, `/encode`, `/rerank`, `/health`; described at `/docs` and `/openapi.json`."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, Field

from drdecr import __version__
from drdecr.retrieval.retriever import RetrievedDocument, Retriever, TranslateTestRetriever, TranslationError

from .batching import Batcher, BusyError
from .requests import EncodeRequest, RequestAnswerer, RerankRequest, SearchRequest

try:
    import uvicorn
    from fastapi import Depends, FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
    from fastapi.security import APIKeyHeader

    from .gate import Gate, TimedProtocol, local_hosts
except ImportError as error:
    raise ImportError("`drdecr serve` needs FastAPI and uvicorn: `pip install drdecr[serve]`.") from error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """What a server allows.

    Args:
        api_key: key in the header `X-API-Key` of every request but `/health`; None: no key is needed.
        hosts: names that a request's header `Host` may have; None: any.
        max_body_bytes: largest body of a request.
        request_seconds: time in which a request's body must have arrived.
        translation_seconds: time in which the questions of a request must be translated; later the answer is status 504.
        max_batch: requests answered together.
        max_waiting: requests that may wait; the next is refused with status 503.
        wait: seconds that a request waits for others to be answered with.

    Raises:
        ValueError: for a key that no header can hold.
    """

    api_key: str | None = None
    hosts: frozenset[str] | None = None
    max_body_bytes: int = 2 * 2**20
    request_seconds: float = 20.0
    translation_seconds: float = 20.0
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
        settings: limits, key and hosts (default: no key, any host, requests of 2 MiB).
    """
    settings = settings or ServerSettings()
    translating = retriever if isinstance(retriever, TranslateTestRetriever) else None
    answerer = RequestAnswerer(translating.reader if translating else retriever)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The translator has its own thread and queue: a slow one holds up only what it translates.
        translate = translating.in_english if translating else None
        async with (
            Batcher(answerer.answer, settings.max_batch, settings.max_waiting, settings.wait) as batcher,
            Batcher(lambda batch: _each(translate, batch), 1, settings.max_waiting, 0) as translations,
        ):
            app.state.batcher, app.state.answerer = batcher, answerer
            app.state.translations = translations if translate else None
            app.state.translation_seconds = settings.translation_seconds
            yield

    summary = "Search in many languages."
    app = FastAPI(
        title="drdecr", version=__version__, lifespan=lifespan, summary=summary, docs_url=None, redoc_url=None
    )
    app.add_middleware(
        Gate,
        api_key=settings.api_key,
        max_body_bytes=settings.max_body_bytes,
        request_seconds=settings.request_seconds,
        hosts=settings.hosts,
    )
    _handle_errors(app)
    # The gate compares the key; this puts it into the description.
    _add_routes(app, [Depends(APIKeyHeader(name="X-API-Key", auto_error=False))] if settings.api_key else [])
    _add_pages(app)
    return app


def _each(function: Any, batch: list[list[str]]) -> list[Any]:
    """Apply a function to each item; an error takes the place of its own item's result."""
    results: list[Any] = []
    for item in batch:
        try:
            results.append(function(item))
        except Exception as error:  # noqa: BLE001  # its sender gets it
            results.append(error)
    return results


async def _translate(request: Request, texts: list[str]) -> list[str]:
    """Return the texts in English where the server translates first, else the texts."""
    translations = request.app.state.translations
    if translations is None:
        return texts
    seconds = request.app.state.translation_seconds
    try:
        async with asyncio.timeout(seconds):
            english: list[str] = await translations.submit(texts)
    except TimeoutError:
        raise TranslationTimeoutError(
            f"The translator did not answer within {seconds:g} seconds. Ask again, or send fewer questions."
        ) from None
    return english


class TranslationTimeoutError(Exception):
    """The translator took too long."""


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

    @app.exception_handler(TranslationTimeoutError)
    async def too_slow(request: Request, error: TranslationTimeoutError) -> JSONResponse:
        logger.warning("%s", error)
        return JSONResponse({"detail": str(error)}, 504)

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
        408: {"description": "The body came too slowly."},
        411: {"description": "Without the header Content-Length."},
        413: {"description": "Too large."},
        502: {"description": "The translator failed."},
        503: {"description": "Too many wait already."},
        504: {"description": "The translator took too long."},
    }

    # What is unset stays out: a server that does not translate answers as if there were no translations.
    @app.post("/search", dependencies=checked, responses=failures, response_model_exclude_unset=True)
    async def search(body: SearchRequest, request: Request) -> SearchResponse:
        """Find documents for questions in any language."""
        english = await _translate(request, body.questions)
        documents = await request.app.state.batcher.submit(body.model_copy(update={"questions": english}))
        translated = {} if request.app.state.translations is None else {"searched_for": english}
        return SearchResponse(results=documents, **translated)

    @app.post("/encode", dependencies=checked, responses=failures)
    async def encode(body: EncodeRequest, request: Request) -> EncodeResponse:
        """Encode texts as queries or as documents."""
        if body.kind == "query":
            body = body.model_copy(update={"texts": await _translate(request, body.texts)})
        return EncodeResponse(embeddings=await request.app.state.batcher.submit(body))

    @app.post("/rerank", dependencies=checked, responses=failures)
    async def rerank(body: RerankRequest, request: Request) -> RerankResponse:
        """Order passages by how well they answer a question."""
        [question] = await _translate(request, [body.question])
        scores = await request.app.state.batcher.submit(body.model_copy(update={"question": question}))
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


def _add_pages(app: FastAPI) -> None:
    """Add the description of the API: one page without scripts, which needs no other host."""
    template = Environment(
        loader=PackageLoader("drdecr.serve", "."), autoescape=True, undefined=StrictUndefined
    ).get_template("api.html")

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(template.render(api=app.openapi(), address=str(request.base_url).rstrip("/")))


def make_server(retriever: Retriever, settings: ServerSettings, host: str, port: int) -> uvicorn.Server:
    """Return a server that runs until SIGTERM or Ctrl-C; what has been asked by then is still answered, in 30 seconds at most."""
    hosts = local_hosts(host)
    if hosts is None and settings.api_key is None:
        logger.warning("Whoever reaches %s may ask: no key is needed. Set one: DRDECR_API_KEY.", host)
    settings = replace(settings, hosts=settings.hosts or hosts)
    config = uvicorn.Config(
        create_app(retriever, settings),
        host=host,
        port=port,
        http=TimedProtocol,
        proxy_headers=False,
        timeout_graceful_shutdown=30,
        log_level="info",
    )
    return uvicorn.Server(config)
