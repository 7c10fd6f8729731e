"""What a request must pass before the application reads it: host, key, length and time.

`Gate` is ASGI middleware; `TimedProtocol` bounds the time that a connection may take to say what it wants.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import h11
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health",)
"""Paths that need no key: whoever watches the server has none."""


class RefusedError(Exception):
    """A request that is answered before it is read."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Gate:
    """Refuses requests by their head, reads bodies within bounds, and stops work whose sender has left.

    Args:
        app: the application behind the gate.
        api_key: key in the header `X-API-Key`; None: no key is needed.
        max_body_bytes: largest body.
        request_seconds: time in which a body must have arrived.
        hosts: names that the header `Host` may have; None: any.
        closed_paths: paths that are answered 404 (default: none).
    """

    def __init__(
        self,
        app: Application,
        api_key: str | None = None,
        max_body_bytes: int = 2 * 2**20,
        request_seconds: float = 20.0,
        hosts: frozenset[str] | None = None,
        closed_paths: tuple[str, ...] = (),
    ) -> None:
        self.app, self.api_key, self.hosts, self.closed_paths = app, api_key, hosts, closed_paths
        self.max_body_bytes, self.request_seconds = max_body_bytes, request_seconds

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self.check_head(scope["path"], scope["headers"])
            body = await self.read_body(receive)
        except RefusedError as refusal:
            await refuse(refusal, receive, send)
            return
        if body is not None:
            await self.run_while_connected(scope, body, receive, send)

    def check_head(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse by path and headers.

        Raises:
            RefusedError: with status 400, 401, 404, 411 or 413.
        """
        if path in self.closed_paths:
            raise RefusedError(404, "Not Found")
        values = dict(headers)
        host = values.get(b"host", b"").decode("latin-1").lower()
        if self.hosts is not None and _without_port(host) not in self.hosts:
            names = ", ".join(sorted(self.hosts))
            raise RefusedError(400, f"Expected one of the hosts {names}. This server answers its own machine alone.")
        if self.api_key is not None and path not in OPEN_PATHS:
            # Headers are bytes: compared as the client wrote them, whatever its encoding.
            is_right = secrets.compare_digest(values.get(b"x-api-key", b""), self.api_key.encode())
            if not is_right:
                raise RefusedError(401, "Expected the key in the header X-API-Key.")
        lengths = [value for name, value in headers if name == b"content-length"]
        if b"transfer-encoding" in values:
            if lengths:
                raise RefusedError(400, "Expected Content-Length or Transfer-Encoding, got both.")
            raise RefusedError(411, "Expected the header Content-Length.")
        if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
            raise RefusedError(400, "Expected one Content-Length, a whole number.")
        if lengths and int(lengths[0][:20]) > self.max_body_bytes:
            raise RefusedError(413, f"Expected at most {self.max_body_bytes} bytes. Send fewer texts.")

    async def read_body(self, receive: Receive) -> bytes | None:
        """Read the whole body; None if the sender leaves.

        Raises:
            RefusedError: with status 408 or 413.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self.request_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self.max_body_bytes:
                        raise RefusedError(413, f"Expected at most {self.max_body_bytes} bytes. Send fewer texts.")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            seconds = f"{self.request_seconds:g} seconds"
            raise RefusedError(408, f"Expected the whole body within {seconds}. Send it again.") from None

    async def run_while_connected(
        self, scope: MutableMapping[str, Any], body: bytes, receive: Receive, send: Send
    ) -> None:
        """Run the application, and cancel it when the sender closes the connection: nobody reads its answer."""
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        disconnected = asyncio.Event()

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await disconnected.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnected.set()

        answering = asyncio.ensure_future(self.app(scope, replay, send))
        watching = asyncio.ensure_future(watch())
        await asyncio.wait([answering, watching], return_when=asyncio.FIRST_COMPLETED)
        if watching.done() and not answering.done():
            answering.cancel()
        watching.cancel()
        results = await asyncio.gather(answering, watching, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]


async def refuse(refusal: RefusedError, receive: Receive, send: Send) -> None:
    """Answer a request whose body stays unread, and close its connection.

    What is on its way is thrown away first, for a second and a megabyte at most: a connection that is closed over unread
    bytes is reset, and the answer may be lost with it.
    """
    answer = JSONResponse({"detail": refusal.detail}, refusal.status, {"Connection": "close"})
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    thrown_away = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while thrown_away < 2**20:
                message = await receive()
                thrown_away += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b""})


def local_hosts(host: str) -> frozenset[str] | None:
    """Return the names by which a server of this machine alone may be called; None for one that others reach.

    A page of another site may make its name lead to this machine: such a name is not among them.
    """
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    return frozenset({"localhost", "127.0.0.1", "[::1]", host}) if is_local else None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, with a time limit for the head of a request and quiet ends of broken ones.

    `head_seconds` runs from the connection, or from the first byte after an answer, to the end of the headers.
    """

    head_seconds = 10.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time of what will not come."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read what came; the time stops while a request is answered."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._start_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request as long as uvicorn keeps a connection."""
        self._stop_timer()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 where an answer can still be sent, else close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            # The head was read and is being answered; after this nothing more can be sent.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
