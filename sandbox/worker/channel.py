"""Channel of JSON frames over a byte stream: a length of four bytes (little-endian), then the text.

All processes of the sandbox use it. Frames above the limit, invalid JSON and truncated frames raise; the reader decides
how to handle them.
"""

import json
import os
import struct
from typing import Any

FRAME_LIMIT = 32 << 20
"""Maximum bytes of a frame: above any answer that a benchmark compares, below what would harm the reader."""

_LENGTH = struct.Struct("<I")
# Bound at import, so that a candidate that replaces os.write or json.dumps can still answer.
_read, _write = os.read, os.write
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class ChannelClosed(Exception):
    """The peer has closed the channel."""


class BadFrame(Exception):
    """The peer wrote an invalid frame."""


class Channel:
    """A pair of file descriptors that carry frames; buffers input, so nothing else may read ``source``."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self._buffer = bytearray()

    def send(self, message: Any) -> None:
        """Write one frame. Raises BadFrame if it exceeds the limit, ChannelClosed if the peer is gone."""
        write_frame(self.sink, message)

    def receive(self) -> Any:
        """Return the message of the next frame. Raises BadFrame or ChannelClosed."""
        buffer = self._buffer
        while len(buffer) < 4:
            self._fill(65536)
        (length,) = _LENGTH.unpack_from(buffer)
        if length > FRAME_LIMIT:
            raise BadFrame(f"a frame of {length} bytes")
        while len(buffer) < 4 + length:
            self._fill(max(65536, 4 + length - len(buffer)))
        text = bytes(buffer[4 : 4 + length])
        del buffer[: 4 + length]
        return parse(text)

    def _fill(self, size: int) -> None:
        try:
            chunk = _read(self.source, min(size, 1 << 20))
        except OSError as fault:
            raise ChannelClosed(str(fault)) from fault
        if not chunk:
            raise ChannelClosed("end of stream")
        self._buffer += chunk


def parse(text: bytes) -> Any:
    """Return the JSON message of a frame. Raises BadFrame, also for text nested too deeply to parse."""
    try:
        return _decode(text.decode())
    except (ValueError, RecursionError) as fault:
        raise BadFrame(f"not JSON: {fault}") from fault


def write_frame(sink: int, message: Any) -> None:
    """Write one frame to a blocking descriptor. Raises BadFrame or ChannelClosed."""
    text = _encode(message).encode("ascii")
    if len(text) > FRAME_LIMIT:
        raise BadFrame(f"a frame of {len(text)} bytes")
    write_all(sink, _LENGTH.pack(len(text)) + text)


def write_all(sink: int, data: bytes) -> None:
    """Write all of ``data`` to a blocking descriptor."""
    view = memoryview(data)
    try:
        while view:
            view = view[_write(sink, view) :]
    except OSError as fault:
        raise ChannelClosed(str(fault)) from fault


def read_exactly(source: int, size: int) -> bytes:
    """Read exactly ``size`` bytes. Raises ChannelClosed at the end of the stream."""
    parts = []
    while size:
        chunk = _read(source, min(size, 1 << 20))
        if not chunk:
            raise ChannelClosed("end of stream")
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)


def read_frame(source: int) -> Any:
    """Read one frame without reading ahead, for descriptors that another process reads afterwards."""
    (length,) = _LENGTH.unpack(read_exactly(source, 4))
    if length > FRAME_LIMIT:
        raise BadFrame(f"a frame of {length} bytes")
    return parse(read_exactly(source, length))


def split_frames(data: bytes) -> list[Any]:
    """Return the messages in ``data`` up to the first invalid or incomplete frame."""
    messages, position = [], 0
    while position + 4 <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        text = data[position + 4 : position + 4 + length]
        if len(text) < length:
            break
        try:
            messages.append(parse(text))
        except BadFrame:
            break
        position += 4 + length
    return messages
