"""What keeps clients from holding a connection, or memory, for as long as they like (uvicorn 0.54 lets them)."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST_UNREAD = 1 << 20
"""Bytes of answers that a client has not read; events wait for it at far less, answers to pings do not."""
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class WebSocketDoor(WebSocketsSansIOProtocol):
    """Refuses a head that the websockets library cannot take, such as a line of over 8 KB, and drops who never reads.

    uvicorn leaves connections with such heads open, and fails over them when it stops.
    """

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_complete:
            self.handshake_complete = self.close_sent = True
            self.transport.write(REFUSAL)
            self.transport.close()
        elif self.transport.get_write_buffer_size() > MOST_UNREAD:
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        """Hand a message on; one of text that is not UTF-8 closes, which uvicorn would log as a failure of its own."""
        if self.curr_msg_data_type == "text" and not self.close_sent and not is_text(b"".join(self.frames)):
            self.frames = []
            self.conn.send_close(1007)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()


def is_text(data: bytes) -> bool:
    """Tell whether ``data`` is UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Unread:
    """Finds clients that take nothing of what is written to them for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: WeakKeyDictionary[Any, tuple[int, float]] = WeakKeyDictionary()

    def stands_still(self, connection: Any, now: float) -> bool:
        """Tell whether as much as before waits to be taken, and has for too long."""
        left = connection.transport.get_write_buffer_size()
        before, since = self.seen.get(connection, (0, now))
        if left != before:
            self.seen[connection] = (left, now)
        return 0 < left == before and now - since > self.seconds
