"""Frames between a pool and its workers: a length of four bytes (little-endian), then JSON."""

import json
import struct
from dataclasses import asdict
from typing import Any

from crosstok.sandbox.program import Program
from crosstok.sandbox.worker.channel import FRAME_LIMIT

_LENGTH = struct.Struct("<I")
_LIMIT = 1 << 24
"""Maximum bytes of a frame from a worker; a verdict with the tails of two output streams is far smaller."""


class OversizedError(ValueError):
    """The program does not fit into a frame; the message gives its size and the limit."""


def frame(message: Any) -> bytes:
    """Return ``message`` as one frame."""
    text = json.dumps(message, separators=(",", ":")).encode("ascii")
    return _LENGTH.pack(len(text)) + text


def program_frames(program: Program) -> bytes:
    """Return the two frames of a program: limits for the worker, and the rest for the referee alone.

    Raises OversizedError.
    """
    header = {"limits": asdict(program.limits)}
    body = {
        "mode": program.mode.value,
        "setup": program.setup,
        "candidate": program.candidate,
        "tests": program.tests,
        "entry_point": program.entry_point,
        "expected_calls": program.expected_calls,
    }
    text = frame(body)
    if len(text) > FRAME_LIMIT:
        raise OversizedError(f"candidate and tests take {len(text)} bytes as JSON, above the limit of {FRAME_LIMIT}")
    return frame(header) + text


def take_frames(buffer: bytearray) -> list[dict[str, Any]]:
    """Remove complete frames from ``buffer`` and return their messages. Raises ValueError for an invalid frame."""
    messages = []
    while len(buffer) >= 4:
        (length,) = _LENGTH.unpack_from(buffer)
        if length > _LIMIT:
            raise ValueError(f"a frame of {length} bytes")
        if len(buffer) < 4 + length:
            break
        message = json.loads(bytes(buffer[4 : 4 + length]))
        if not isinstance(message, dict):
            raise ValueError(f"a frame that holds a {type(message).__name__}")  # noqa: TRY004  (a stream, not a caller)
        messages.append(message)
        del buffer[: 4 + length]
    return messages
