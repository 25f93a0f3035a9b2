"""HTTP/2 on both sides of the forward door, with windows that open only when a test says so."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events

from tests.bulk import PIECE
from tests.certs import Leaf

WRITTEN_BYTES = 1 << 20  # that much may wait in a transport


@dataclass
class Stream:
    """What has come of one."""

    status: int = 0
    got: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Peer(asyncio.Protocol):
    """One end of a connection: keeps what it gets, and takes more only while its gate is open."""

    def __init__(self, gate: asyncio.Event, *, client_side: bool) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client_side, header_encoding=None))
        self.gate = gate
        self.got = 0
        self.given = 0
        self.streams: defaultdict[int, Stream] = defaultdict(Stream)
        self.room = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.tunnel: asyncio.StreamWriter | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def spawn(self, work: asyncio.Task[None]) -> None:
        self.tasks.add(work)
        work.add_done_callback(self.tasks.discard)

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.got += len(event.data)
                self.streams[event.stream_id].got += len(event.data)
                self.spawn(asyncio.ensure_future(self._take(event.flow_controlled_length, event.stream_id)))
            elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
                self.room.set()
            elif isinstance(event, h2.events.ResponseReceived):
                self.streams[event.stream_id].status = int(dict(event.headers)[b":status"])
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.streams[event.stream_id].ended.set()
            self.heard(event)
        self.flush()

    async def _take(self, size: int, stream: int) -> None:
        await self.gate.wait()
        if size and not self.transport.is_closing():
            self.h2.acknowledge_received_data(size, stream)
            self.flush()

    def heard(self, event: h2.events.Event) -> None:
        """What only one side has to do with."""

    async def answer(self, stream: int) -> tuple[int, int]:
        """The status and the size of a stream's answer, once it has ended; 0 for none."""
        found = self.streams[stream]
        await found.ended.wait()
        return found.status, found.got

    def resume_writing(self) -> None:
        self.room.set()

    async def send(self, stream: int, size: int) -> None:
        """So many bytes, as the other side has room for them."""
        while size:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, size)
            if room <= 0 or self.transport.get_write_buffer_size() > WRITTEN_BYTES:
                self.room.clear()
                await self.room.wait()
                continue
            self.h2.send_data(stream, PIECE[:room], end_stream=room == size)
            size -= room
            self.given += room
            self.flush()
            await asyncio.sleep(0)  # or nobody else has a turn

    def connection_lost(self, _: Exception | None) -> None:
        for stream in self.streams.values():
            stream.ended.set()


class _Vendor(Peer):
    """Answers GET …/SIZE with so many bytes, POST with how many came, and GET …/silent not at all."""

    def __init__(self, owner: Http2Vendor) -> None:
        super().__init__(owner.gate, client_side=False)
        self.owner = owner
        owner.peers.append(self)

    def heard(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = dict(event.headers)
            last = fields[b":path"].rpartition(b"/")[2]
            if fields[b":method"] == b"GET" and last.isdigit():
                self.h2.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/octet-stream")])
                self.spawn(asyncio.ensure_future(self.send(event.stream_id, int(last))))
        elif isinstance(event, h2.events.StreamEnded) and self.got:
            self.h2.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/plain")])
            self.h2.send_data(event.stream_id, str(self.got).encode(), end_stream=True)


@dataclass
class Http2Vendor:
    """The vendor, over TLS; what it is sent it takes while `gate` is set."""

    leaf: Leaf
    port: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Open from the start."""
    peers: list[_Vendor] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self.gate.set()
        context = self.leaf.server_context()
        context.set_alpn_protocols(["h2"])
        self._server = await asyncio.get_running_loop().create_server(lambda: _Vendor(self), "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()

    @property
    def base_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/v1"


async def http2_client(proxy: str, port: int, ca: Path) -> Peer:
    """A client's connection through the forward door to a port of this machine; what it is sent it takes while its gate is open."""
    loop, place = asyncio.get_running_loop(), urlsplit(proxy)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    peer = Peer(asyncio.Event(), client_side=True)
    peer.gate.set()
    transport = await loop.start_tls(writer.transport, peer, context, server_hostname="127.0.0.1")
    assert transport is not None
    peer.connection_made(transport)
    peer.tunnel = writer  # which would close what is below if nobody held it
    return peer


def ask(peer: Peer, method: str, path: str, port: int, *, end: bool = True) -> int:
    """Begin a request; the number of its stream."""
    stream = peer.h2.get_next_available_stream_id()
    fields = [(":method", method), (":scheme", "https"), (":authority", f"127.0.0.1:{port}"), (":path", path)]
    peer.h2.send_headers(stream, [*fields, ("content-type", "application/octet-stream")], end_stream=end)
    peer.flush()
    return stream
