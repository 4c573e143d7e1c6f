"""Cache of teacher outputs per window, shared by all methods, seeds and runs.

ALM needs two numbers per token from its teacher, the log-probability of the token and the boundary mass after it: 8
bytes. Losses over whole distributions may instead ask for the ``k`` most likely tokens and the remaining mass:
``8k + 4`` bytes. The outputs of a frozen teacher never change, so its forward pass can be skipped.

The cache is exact for two reasons. First, a window is keyed by a hash of the token ids that the teacher reads, in a
folder named by a hash of everything else that determines the outputs (the teacher's weights and tokenizer, precision,
device, version of torch). Order, seed, window size, student and losses do not matter, and no entry can be stale.
Second, the teacher reads each window *by itself*, with or without the cache, because matrix products of different
shapes round differently: outputs from a padded batch would depend on the rest of the batch. Training is therefore
bit-identical whether outputs are computed or read (on one machine with the same number of threads).

On disk, a folder holds shards. A shard is a memory-mapped file of values and a file of records (key, offset, length,
CRC-32). Both are append-only, and each process writes shards of its own. A record is written after its values, so the
files of a killed process are valid up to its last window. A corrupt entry is logged and recomputed; if nothing can be
written, a warning is logged and training continues without the cache.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crosstok.distill.readings.batch import Side
from crosstok.distill.readings.outputs import Outputs, Reader, Reading
from crosstok.fingerprint import fingerprint

log = logging.getLogger(__name__)

Words = npt.NDArray[np.uint32]

_SHARD_BYTES = 1 << 28
_RECORD = np.dtype([("key", "V16"), ("first", "<u8"), ("tokens", "<u4"), ("crc", "<u4")])

SCORES: frozenset[Reading] = frozenset({"gold", "boundary"})
TOP: frozenset[Reading] = frozenset({"top", "rest"})


class _Entry(NamedTuple):
    shard: int
    first: int
    tokens: int
    crc: int


class Shards:
    """An append-only map on disk from 16-byte keys to arrays ``[tokens, words]`` of 32-bit words."""

    def __init__(self, folder: Path, words: int) -> None:
        self.folder = folder
        self.words = words
        self._entries: dict[bytes, _Entry] = {}
        self._maps: dict[int, Words] = {}
        self._writing: tuple[int, IO[bytes], IO[bytes]] | None = None
        self._full = False
        for path in sorted(folder.glob("*.records")):
            self._read_records(path)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Words | None:
        """Return the array stored under ``key``; None if it is missing or corrupt."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        start, stop = entry.first * self.words, (entry.first + entry.tokens) * self.words
        if len(self._maps.get(entry.shard, ())) < stop:
            path = self._path(entry.shard, "values")
            whole = path.stat().st_size // 4  # a killed process may have written part of a word
            self._maps[entry.shard] = np.memmap(path, dtype=np.uint32, mode="r", shape=(whole,))
        found = np.array(self._maps[entry.shard][start:stop]).reshape(-1, self.words)
        if zlib.crc32(found.tobytes()) != entry.crc:
            log.warning("a corrupt entry in %s is recomputed", self._path(entry.shard, "values"))
            del self._entries[key]
            return None
        return found

    def put(self, key: bytes, values: Words) -> None:
        """Store ``values [tokens, words]``. On the first failure, log a warning and store nothing from then on."""
        if self._full:
            return
        try:
            self._append(key, np.ascontiguousarray(values))
        except OSError as error:
            self._full = True
            log.warning("the teacher cache %s is no longer written: %s", self.folder, error.strerror)

    def close(self) -> None:
        """Close the shard that is open for writing."""
        if self._writing is not None:
            for stream in self._writing[1:]:
                stream.close()
            self._writing = None

    def _append(self, key: bytes, values: Words) -> None:
        shard, data, records = self._open_shard()
        first = data.tell() // (4 * self.words)
        crc = zlib.crc32(values.tobytes())
        data.write(values.tobytes())
        data.flush()
        records.write(np.array([(key, first, len(values), crc)], dtype=_RECORD).tobytes())
        records.flush()
        self._entries[key] = _Entry(shard, first, len(values), crc)

    def _open_shard(self) -> tuple[int, IO[bytes], IO[bytes]]:
        if self._writing is not None and self._writing[1].tell() >= _SHARD_BYTES:
            self.close()
        if self._writing is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = 1 + max((int(path.stem) for path in self.folder.glob("*.values")), default=-1)
            while True:
                try:
                    data = self._path(number, "values").open("xb")  # fails if another process has taken the number
                    break
                except FileExistsError:
                    number += 1
            self._writing = (number, data, self._path(number, "records").open("wb"))
        return self._writing

    def _read_records(self, path: Path) -> None:
        shard, data = int(path.stem), path.with_suffix(".values")
        raw = path.read_bytes()
        whole = np.frombuffer(raw[: len(raw) // _RECORD.itemsize * _RECORD.itemsize], dtype=_RECORD)
        size = data.stat().st_size // (4 * self.words) if data.exists() else 0
        for key, first, tokens, crc in whole.tolist():
            if first + tokens <= size:
                self._entries[key] = _Entry(shard, first, tokens, crc)

    def _path(self, shard: int, kind: str) -> Path:
        return self.folder / f"{shard:05d}.{kind}"


class WindowTeacher:
    """Reads a frozen teacher window by window, from the cache if possible."""

    def __init__(
        self,
        network: nn.Module,
        reader: Reader,
        needs: AbstractSet[Reading],
        *,
        precision: Callable[[], AbstractContextManager[Any]],
        folder: Path | None,
    ) -> None:
        """Prepare to read ``needs``, a subset of ``SCORES | TOP``; ``folder`` is None to disable the cache."""
        self.network, self.reader, self.precision = network, reader, precision
        self.kinds = [kind for kind in (SCORES, TOP) if needs & kind]
        self._shards = {
            kind: Shards(folder / _name(kind, reader), _words(kind, reader)) for kind in self.kinds if folder
        }
        self.read_windows = 0
        """Number of windows that the teacher has computed."""
        self.found_windows = 0
        """Number of windows found in the cache."""

    def read(self, side: Side) -> Outputs:
        """Return the readings of one side of a batch, 0 at padding."""
        readings: dict[Reading, Tensor] = {}
        for row, first, stop in side.windows():
            ids = side.ids[row, first:stop]
            found: dict[Reading, Tensor] = {}
            known = True
            for kind in self.kinds:
                kept = self._kept(kind, ids)
                known = known and kept is not None
                found |= self._computed(kind, ids) if kept is None else kept
            self.found_windows += known
            self.read_windows += not known
            for name, values in found.items():
                if name not in readings:
                    readings[name] = values.new_zeros(*side.ids.shape, *values.shape[1:])
                readings[name][row, first:stop] = values
        return Outputs(readings)

    def close(self) -> None:
        """Close the files of the cache."""
        for shards in self._shards.values():
            shards.close()

    def _kept(self, kind: frozenset[Reading], ids: Tensor) -> dict[Reading, Tensor] | None:
        if kind not in self._shards:
            return None
        words = self._shards[kind].get(_key(ids))
        return None if words is None else _unpacked(kind, words, self.reader.top, ids.device)

    def _computed(self, kind: frozenset[Reading], ids: Tensor) -> dict[Reading, Tensor]:
        alone = ids[None]
        nothing = torch.zeros_like(alone)
        side = Side(alone, torch.ones_like(alone), nothing - 1, nothing.bool(), nothing)
        with torch.no_grad(), self.precision():
            outputs = self.reader.read(self.network, side, kind)
        found = {name: outputs.readings[name][0] for name in sorted(kind)}
        if kind in self._shards:
            self._shards[kind].put(_key(ids), _packed(kind, found))
        return found


def cache_name(teacher: str, tokenizer: str, valid_rows: int, precision: str, device: str) -> str:
    """Return the folder name of a teacher: a hash of everything but the token ids that determines its outputs."""
    return fingerprint(
        {
            "teacher": teacher,
            "tokenizer": tokenizer,
            "valid_rows": valid_rows,
            "precision": precision,
            "device": device,
            "torch": torch.__version__,
        }
    )


def _name(kind: frozenset[Reading], reader: Reader) -> str:
    return "scores" if kind == SCORES else f"top-{reader.top}"


def _words(kind: frozenset[Reading], reader: Reader) -> int:
    return 2 if kind == SCORES else 2 * reader.top + 1


def _key(ids: Tensor) -> bytes:
    return hashlib.blake2b(ids.cpu().numpy().astype("<i8").tobytes(), digest_size=16).digest()


def _packed(kind: frozenset[Reading], found: dict[Reading, Tensor]) -> Words:
    if kind == SCORES:
        both = torch.stack([found["gold"], found["boundary"]], dim=1).float()
        return both.cpu().numpy().view(np.uint32)
    ids, rest = found["top"].cpu().numpy().astype(np.uint32), found["rest"].float().cpu().numpy().view(np.uint32)
    return np.concatenate([ids, rest], axis=1)


def _unpacked(kind: frozenset[Reading], words: Words, top: int, device: torch.device) -> dict[Reading, Tensor]:
    if kind == SCORES:
        both = torch.from_numpy(words.view(np.float32)).to(device)
        return {"gold": both[:, 0], "boundary": both[:, 1]}
    ids = torch.from_numpy(words[:, :top].astype(np.int64)).to(device)
    return {"top": ids, "rest": torch.from_numpy(words[:, top:].copy().view(np.float32)).to(device)}
