"""The forward door: mitmproxy as a library, opening only the channels' hosts; everything else is tunnelled untouched.

What it opens it records with the Exchange machine and relays as it comes. It adds nothing to a message and takes out
only what is ours (x-ledger-*) or the hop's (Proxy-*). Whether a connection is opened is decided on its target, never
on a Host header or a server name, which the client is free to invent.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import h11
import mitmproxy.proxy.layers.http as mitm_http
import mitmproxy.proxy.layers.http._http1 as mitm_http1
import mitmproxy.proxy.layers.http._http2 as mitm_http2
import mitmproxy.proxy.layers.websocket as mitm_websocket
import mitmproxy.proxy.server as mitm_server
from h11._readers import ChunkedReader  # mitmproxy reads with it, and has no public name for it either
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import connection, http, options
from mitmproxy.addons import core, next_layer, proxyserver, tlsconfig
from mitmproxy.master import Master
from mitmproxy.net.http import http1
from mitmproxy.net.http.url import hostport
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.layers import TCPLayer
from mitmproxy.proxy.mode_specs import ProxyMode, RegularMode, ReverseMode, UpstreamMode
from mitmproxy.proxy.server import ConnectionHandler, TimeoutWatchdog
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from proxy import answers, forward_h2, forward_http, forward_ws, heads, progress, silence
from proxy.desk import Desk, Refused
from proxy.exchange import AttemptCapture, Client, Exchange, RequestHead
from proxy.forward_hooks import call_straight
from proxy.forward_http import StrictServer
from proxy.guard import Guard, headers_of
from proxy.ports import PortInUseError, reserve
from proxy.silence import Silence
from proxy.sockets import End, SocketLog
from proxy.targets import ForbiddenTargetError
from proxy.turns import asked_model
from schemas.book import Book, Channel
from schemas.hosts import split_host

_OUR_HEADERS = b"x-ledger-"
_HOP_HEADERS = frozenset((b"proxy-connection", b"proxy-authorization"))
_KEY = "tokenledger"  # where a flow carries its own record


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """Where the door listens and whom it trusts."""

    host: str
    port: int
    modes: tuple[str, ...]
    confdir: Path
    upstream_ca: Path  # a bundle: system roots and what --upstream-ca adds
    shared: bool  # other workers listen on the same port


class Hosts:
    """Which channel a connection's target belongs to."""

    def __init__(self, book: Book) -> None:
        self._exact: dict[tuple[str, int], list[Channel]] = {}
        self._any_port: dict[str, list[Channel]] = {}
        for channel in book.channels:
            base = urlsplit(channel.base_url)
            port = base.port or (443 if base.scheme == "https" else 80)
            self._exact.setdefault((str(base.hostname), port), []).append(channel)
            for host in channel.hosts:
                name, number = split_host(host)
                if number is not None:
                    self._exact.setdefault((name, number), []).append(channel)
                else:
                    self._any_port.setdefault(name, []).append(channel)

    def opens(self, host: str, port: int) -> bool:
        """Whether connections to this target are opened."""
        name = host.lower().rstrip(".")
        return (name, port) in self._exact or name in self._any_port

    def unverified(self, host: str, port: int) -> bool:
        """Whether all channels of a target go without a check of its certificate."""
        name = host.lower().rstrip(".")
        found = self._exact.get((name, port), []) + self._any_port.get(name, [])
        return bool(found) and all(channel.tls_unverified for channel in found)

    def channel(self, host: str, port: int, path: str) -> Channel | None:
        """The channel of a request: of those at this target, the one whose base path fits best, first named on a tie."""
        name = host.lower().rstrip(".")
        found = self._exact.get((name, port), []) + self._any_port.get(name, [])
        return max(found, key=lambda channel: _fit(channel, path), default=None)


def _fit(channel: Channel, path: str) -> int:
    base = urlsplit(channel.base_url).path
    return len(base) if path == base or path.startswith(base + "/") else -1


class _Flow:
    """What the door remembers of one flow."""

    __slots__ = ("attempt", "client", "exchange", "log")

    def __init__(self, exchange: Exchange, client: Client) -> None:
        self.exchange = exchange
        self.client = client
        self.attempt: AttemptCapture | None = None
        self.log: SocketLog | None = None  # where it became a WebSocket


class ForwardAddon:
    """The hooks, each a few calls on the Exchange machine."""

    def __init__(self, hosts: Hosts, desk: Desk, guard: Guard, servers: proxyserver.Proxyserver) -> None:
        self._hosts = hosts
        self._desk = desk
        self._guard = guard
        self._placed: dict[str, bool] = {}  # by connection
        self._admitted: set[str] = set()  # those whose tunnel was asked for with the token
        self._servers = servers
        self._silence = Silence(servers)
        self._sockets: set[SocketLog] = set()

    def client_connected(self, client: connection.Client) -> None:
        """Somebody has come: with a place, to be told that there is none, or not at all."""
        self._placed[client.id] = self._guard.admission.enter()
        if self._guard.admission.overrun or not self._guard.access.knows(client.peername[0]):
            client.error = "not taken"

    def client_disconnected(self, client: connection.Client) -> None:
        """And has gone."""
        self._guard.admission.leave(self._placed.pop(client.id))
        self._admitted.discard(client.id)

    def _refused(self, flow: http.HTTPFlow) -> bool:
        """Answer ourselves where this client's request is not taken, whatever it asks for."""
        client, known = flow.client_conn, flow.client_conn.id in self._admitted
        headers = None if known else _text_headers(flow.request.headers)
        refusal = self._guard.refusal(client.peername[0], headers, placed=self._placed.get(client.id, False))
        if refusal is None:
            return False
        self._desk.counters.refused += 1
        kind = "server_error" if refusal.status == 503 else "invalid_request_error"
        told = {**answers.HEADERS, **headers_of(refusal), "Connection": "close"}
        _answer(flow, refusal.status, answers.body(refusal.words, kind, refusal.code), told)
        return True

    async def http_connect(self, flow: http.HTTPFlow) -> None:
        """A tunnel is asked for: what no channel has must be open to clients. A channel's own host is met with a recorded attempt."""
        if self._refused(flow):
            return
        self._admitted.add(flow.client_conn.id)
        if not self._hosts.opens(flow.request.host, flow.request.port):
            await self._judge(flow)
            flow.metadata[forward_http.TUNNEL] = True

    async def _judge(self, flow: http.HTTPFlow) -> None:
        """Answer ourselves where the target is none that a client may reach."""
        if isinstance(flow.client_conn.proxy_mode, UpstreamMode):
            return  # the proxy behind this one resolves it, and has rules of its own
        try:
            await self._guard.targets.resolve(flow.request.host, flow.request.port)
        except ForbiddenTargetError as error:
            self._desk.counters.refused += 1
            _answer(flow, 403, answers.body(str(error.strerror), "invalid_request_error", "forbidden_target"))
        except OSError as error:
            words = f"{flow.request.host} cannot be resolved: {error.strerror or error}"
            _answer(flow, 502, answers.upstream_failed(502, words))

    def next_layer(self, nextlayer: NextLayer) -> None:
        """After CONNECT (or a transparent accept): tunnel whatever is not a channel's."""
        address = nextlayer.context.server.address
        if address is not None and not self._hosts.opens(address[0], address[1]):
            nextlayer.layer = TCPLayer(nextlayer.context, ignore=True)
            self._desk.counters.tunnels += 1

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A request's head has come."""
        request = flow.request
        if self._refused(flow):
            return
        why = heads.fault(request.data.method, request.data.path, request.headers.fields)
        if why is not None:  # HTTP/2 can say what HTTP/1 cannot
            _answer(flow, 400, answers.body(why, "invalid_request_error", "bad_request"))
            return
        if not flow.client_conn.tls:
            request.host_header = hostport(request.scheme, request.host, request.port)  # RFC 9112, 3.2.2: not what the client wrote there
        if self._hosts.channel(request.host, request.port, request.path) is None:
            await self._judge(flow)
            request.stream = flow.response is None
            return
        path, _, query = request.path.partition("?")
        head = RequestHead(request.method, f"{request.host}:{request.port}", path, query, _text_headers(request.headers))
        address = flow.client_conn.peername[0] if flow.client_conn.peername else ""
        client = Client("forward", address, flow.client_conn.id)
        exchange = self._desk.exchange(head, client)
        if request.headers.get("upgrade", "").lower() == "websocket" and request.headers.get("sec-websocket-version") == "13":
            exchange.model = asked_model(query)
        else:
            _stay_http(request.headers)
        flow.metadata[_KEY] = _Flow(exchange, client)
        flow.metadata[forward_http.BODY] = self._desk.held_body()
        flow.metadata[forward_http.TAKE] = exchange.request_chunk

    async def request(self, flow: http.HTTPFlow) -> None:
        """The whole request is here: OPEN is made durable before any of it leaves."""
        known: _Flow | None = flow.metadata.get(_KEY)
        if known is None or flow.response is not None:
            _strip(flow.request.headers)
            return
        exchange, desk, request = known.exchange, self._desk, flow.request
        opened = exchange.request_end()
        _strip(request.headers)
        channel = self._hosts.channel(request.host, request.port, request.path)
        assert channel is not None
        at = desk.now()
        attempt = exchange.attempt(
            channel=channel.name,
            role="direct",
            reason="first",
            url=f"{request.scheme}://{request.host}:{request.port}{opened.path}",
            sent_model=exchange.model,
            modified=(),
            at=at,
        )
        try:
            await desk.open([opened, attempt.opened, *exchange.request_body(at)], refuse=desk.book.settings.forward.unrecorded == "refuse")
        except Refused as refused:
            _answer(flow, 503, answers.body(str(refused), "server_error", "not_recorded"))
            del flow.metadata[_KEY]
            return
        known.attempt = attempt
        desk.watch(attempt)
        self._silence.begin(flow, channel.timeout_s)

    async def body_piece(self, flow: http.HTTPFlow) -> None:
        """A piece of a large request has been handed on: wait until upstream takes more."""
        handler = self._servers.connections.get(flow.client_conn.id)
        if handler is not None:
            await forward_h2.sent(handler, flow)
        self._silence.heard(flow)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Upstream's head has come: from here on, chunks pass as they come and are read as they pass."""
        response = flow.response
        assert response is not None
        known: _Flow | None = flow.metadata.get(_KEY)
        if known is None or known.attempt is None:
            response.stream = True
            return
        self._silence.heard(flow)
        known.attempt.head(response.status_code, _text_headers(response.headers), self._desk.now())
        response.stream = functools.partial(self._pass, flow, known.attempt)

    def _pass(self, flow: http.HTTPFlow, attempt: AttemptCapture, data: bytes) -> bytes:
        self._silence.heard(flow)
        attempt.chunk(data, self._desk.now())
        return data

    def response(self, flow: http.HTTPFlow) -> None:
        """The response ended as it should, or the connection is a WebSocket from here on."""
        known: _Flow | None = flow.metadata.get(_KEY)
        if flow.websocket is None or known is None or known.attempt is None:
            self._close(flow, "complete", None)
            return
        self._silence.end(flow)  # a socket may be still for as long as both sides like
        known.log = forward_ws.log_of(self._desk, flow, known.exchange, known.client, known.attempt)
        self._sockets.add(known.log)

    async def websocket_message(self, flow: http.HTTPFlow) -> None:
        """A message of a WebSocket: a turn that it opens is made durable before its last byte leaves."""
        known: _Flow | None = flow.metadata.get(_KEY)
        if known is not None and known.log is not None and flow.websocket is not None:
            refuse = self._desk.book.settings.forward.unrecorded == "refuse"
            await forward_ws.take(known.log, flow.websocket.messages[-1], refuse=refuse)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """A WebSocket ended."""
        known: _Flow | None = flow.metadata.get(_KEY)
        if known is not None and known.log is not None:
            forward_ws.close(known.log, flow)
            self._sockets.discard(known.log)

    def stop(self) -> None:
        """The door closes: what is still open is closed by us."""
        for log in self._sockets:
            log.end(End("proxy"))

    def error(self, flow: http.HTTPFlow) -> None:
        """The flow broke. An SDK that closes right after the terminal event ends here too: that is a success."""
        known: _Flow | None = flow.metadata.get(_KEY)
        if known is None or known.attempt is None or flow.error is None:
            return
        words = flow.error.msg
        if known.attempt.finished:
            self._close(flow, "complete", None)
        elif words.startswith("Client disconnected") or not flow.client_conn.connected:
            known.attempt.client_gone(self._desk.now())
            self._close(flow, "client_gone", words)
        elif (known.attempt.status is None and flow.server_conn.timestamp_tcp_setup is None) or (
            known.attempt.status is None and flow.server_conn.tls and not flow.server_conn.tls_established
        ):
            self._close(flow, "connect_error", words)
        else:
            self._close(flow, "timeout" if forward_http.OVERDUE in flow.metadata else "upstream_truncated", words)

    def _close(self, flow: http.HTTPFlow, ending: str, error: str | None) -> None:
        known: _Flow | None = flow.metadata.get(_KEY)
        if known is not None and known.attempt is not None:
            self._silence.end(flow)
            self._desk.close(known.attempt, ending, relayed=True, error=error)


class _Exceptions:
    """Connections to channels whose certificates the book says not to check; comes after the addon that sets them up."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def tls_start_server(self, data: TlsData) -> None:
        """A connection upstream is about to shake hands."""
        address = data.conn.address if isinstance(data.conn, connection.Server) else None
        if address is not None and self._hosts.unverified(address[0], address[1]) and data.ssl_conn is not None:
            data.ssl_conn.set_verify(SSL.VERIFY_NONE, lambda *_: True)


class ForwardDoor:
    """mitmproxy with the five addons the door needs, started and stopped by its owner."""

    def __init__(self, settings: ForwardSettings, hosts: Hosts, desk: Desk, guard: Guard) -> None:
        self._settings = settings
        self._desk = desk
        self._hosts = hosts
        self._targets = guard.targets
        self._servers = proxyserver.Proxyserver()
        self._addon = ForwardAddon(hosts, desk, guard, self._servers)
        self._master: Master | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen; the port in use. Raises PortInUseError."""
        settings = self._settings
        # Mitmproxy only logs that a port is taken: the kernel is asked first.
        reserve("forward", settings.host, settings.port, shared=settings.shared).close()
        opts = options.Options(
            confdir=str(settings.confdir),
            listen_host=settings.host,
            listen_port=settings.port,
            mode=list(settings.modes),
            ssl_verify_upstream_trusted_ca=str(settings.upstream_ca),
        )
        self._master = Master(opts, event_loop=asyncio.get_running_loop())
        self._master.addons.add(
            core.Core(), self._servers, self._addon, next_layer.NextLayer(), tlsconfig.TlsConfig(), _Exceptions(self._hosts)
        )
        call_straight(self._master.addons.chain)
        # Lazy: an upstream that is down must meet a recorded attempt, not the CONNECT before it.
        # No raw TCP: it is taken for what does not look like HTTP at once, and a channel would be reached past the record.
        opts.update(connection_strategy="lazy", validate_inbound_headers=True, rawtcp=False, upstream_cert=False)
        for mode in map(ProxyMode.parse, settings.modes):
            if isinstance(mode, UpstreamMode | ReverseMode):
                self._targets.open_to(*mode.address)
        # mitmproxy resolves and connects in one call: this one in its place connects only to what was judged.
        mitm_server.asyncio = SimpleNamespace(**{**vars(asyncio), "open_connection": self._targets.open_connection})  # type: ignore[assignment, attr-defined]
        mitm_server.TCP_TIMEOUT = max(mitm_server.TCP_TIMEOUT, *(int(channel.timeout_s) for channel in self._desk.book.channels))
        TimeoutWatchdog.watch = _unwatched  # type: ignore[method-assign]
        TimeoutWatchdog.register_activity = silence.moved  # type: ignore[method-assign]
        ConnectionHandler.drain_writers = forward_h2.drained  # type: ignore[method-assign]
        if settings.shared:
            mode_servers.AsyncioServerInstance.listen = _listen_shared  # type: ignore[method-assign, assignment]
        # mitmproxy answers an upstream that is down with a page for people, and has no option for it.
        mitm_http1.make_error_response = _error_response
        mitm_http.Http1Server = StrictServer  # type: ignore[attr-defined]
        mitm_http.Http1Client = forward_http.FinalClient  # type: ignore[attr-defined]
        mitm_http.Http2Server = forward_h2.BoundedServer  # type: ignore[attr-defined]
        mitm_http.Http2Client = forward_h2.BoundedClient  # type: ignore[attr-defined]
        mitm_http.HttpStream = forward_http.HeldStream  # type: ignore[misc]
        mitm_http1.ChunkedReader = _BodyOfChunks  # type: ignore[attr-defined]  # it knows no trailers, and would cut the message off at them
        mitm_websocket.WebsocketLayer = forward_ws.ByteRelay  # type: ignore[misc, assignment]  # nor for its way with frames
        mitm_http2.format_error = answers.upstream_failed  # type: ignore[attr-defined]  # it is imported there, not exported
        if not await self._servers.setup_servers() or not self._servers.listen_addrs():
            raise PortInUseError(
                f"the forward door cannot listen on {settings.host}:{settings.port}", "choose another --forward-port or --forward-mode"
            )
        await self._master.running()
        self._sweeping = asyncio.create_task(self._sweep())
        return int(self._servers.listen_addrs()[0][1])

    async def _sweep(self) -> None:
        """Let go of connections on which nothing moves. One task for all, where mitmproxy has one for each."""
        silent: set[Any] = set()
        while True:
            await asyncio.sleep(progress.TICK_S)
            open_now = dict(self._servers.connections)
            waiting = {key for key in open_now if key not in StrictServer.of_client and _is_regular(open_now[key])}
            slow = {key for key, server in list(StrictServer.of_client.items()) if server.stalled()} | (waiting & silent)
            silent = waiting
            for key, handler in open_now.items():
                io = handler.transports.get(handler.client)
                if io is None or io.handler is None:
                    continue
                if key in slow and isinstance(io.writer, asyncio.StreamWriter):
                    io.writer.write(answers.raw(408, "the request took too long to come"))
                if key in slow or _is_dead(handler):
                    io.handler.cancel("nothing moves")

    async def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        for instance in self._servers.servers:
            for server in getattr(instance, "_servers", []):
                server.close()

    async def stop(self) -> None:
        """Close what is left."""
        if self._master is None:
            return
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._addon.stop()
        for handler in list(self._servers.connections.values()):
            for transport in list(handler.transports.values()):
                if transport.handler is not None:
                    transport.handler.cancel("the proxy stops")
        await self._master.done()


def _is_regular(handler: ConnectionHandler) -> bool:
    """Whether a client of this connection speaks first."""
    return isinstance(handler.client.proxy_mode, RegularMode)


def _is_dead(handler: ConnectionHandler) -> bool:
    """Whether neither side has sent anything for longer than any channel may take."""
    watchdog = handler.timeout_watchdog
    return watchdog.can_timeout.is_set() and watchdog.last_activity + watchdog.timeout < time.monotonic()


async def _unwatched(_: TimeoutWatchdog) -> None:
    """The sweep watches for all."""


class _BodyOfChunks(ChunkedReader):
    """A chunked body without its trailers, which an intermediary may discard (RFC 9110, section 6.5.1): the next hop may know none."""

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        event = super().__call__(buf)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event


def _answer(flow: http.HTTPFlow, status: int, body: bytes, headers: Mapping[str, str] = answers.HEADERS) -> None:
    flow.response = http.Response.make(status, body, dict(headers))


def _error_response(status_code: int, message: str = "") -> bytes:
    answer = http.Response.make(status_code, answers.upstream_failed(status_code, message), {**answers.HEADERS, "Connection": "close"})
    return bytes(http1.assemble_response(answer))


_listen_alone = mode_servers.AsyncioServerInstance.listen


async def _listen_shared(instance: mode_servers.AsyncioServerInstance[Any], host: str, port: int) -> list[Any]:
    """How a mode listens on TCP, on a port where other workers listen too; mitmproxy has no option for it."""
    if instance.mode.transport_protocol != "tcp":
        return await _listen_alone(instance, host, port)
    return [await asyncio.start_server(instance.handle_stream, host, port, reuse_port=True)]


def _text_headers(headers: http.Headers) -> Sequence[tuple[str, str]]:
    return [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in headers.fields]


def _stay_http(headers: http.Headers) -> None:
    """An upgrade to what we cannot read would be a way past the record; to ignore the wish is any hop's right (RFC 9110, 7.8)."""
    if "upgrade" in headers:
        for name in ("upgrade", "http2-settings"):
            headers.pop(name, None)
        kept = [part for part in headers.get("connection", "").split(",") if part.strip().lower() not in {"upgrade", "http2-settings"}]
        headers["connection"] = ",".join(kept) or "keep-alive"


def _strip(headers: http.Headers) -> None:
    """Take out what must not leave: our own headers and the hop's."""
    fields = headers.fields
    if any(name.lower().startswith(_OUR_HEADERS) or name.lower() in _HOP_HEADERS for name, _ in fields):
        headers.fields = tuple(
            (name, value) for name, value in fields if not (name.lower().startswith(_OUR_HEADERS) or name.lower() in _HOP_HEADERS)
        )


logging.getLogger("mitmproxy").setLevel(logging.WARNING)
