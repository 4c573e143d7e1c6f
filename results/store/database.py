"""Connections to a store: opening it, transactions, and errors of the driver as one clear line.

SQLite runs in WAL mode: readers never wait for the writer, a second writer waits, and a process that is killed leaves
a file that opens again with every committed call in it. Write transactions begin as ``IMMEDIATE``, because SQLite
refuses at once, without waiting, a transaction that read first and then finds that another process has written.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from crosstok.errors import UserError
from crosstok.results.store.records import SCHEMA_VERSION
from crosstok.results.store.sql import ADDED_IN, METADATA, STORE_SCHEMA

BUSY_SECONDS = 60
"""Maximum time to wait for another writer, in seconds."""

_LOCK = 0x63726F7373746F6B  # advisory lock of PostgreSQL while tables are created or migrated


class Database:
    """Connection to a store: gives transactions and turns driver errors into ``UserError``."""

    def __init__(self, url_or_path: str | Path, *, read_only: bool = False) -> None:
        """Open or create the store; a plain path means a SQLite file there.

        Raises:
            UserError: the location does not exist, is not a store, is damaged, or has a newer schema.

        """
        text = str(url_or_path)
        self.read_only = read_only
        self.path = None if "://" in text and not text.startswith("sqlite:") else _sqlite_path(text)
        self.name = str(self.path) if self.path else sa.make_url(text).render_as_string(hide_password=True)
        with self.plainly():
            self._engine = _sqlite_engine(self.path, read_only=read_only) if self.path else _server_engine(text)
            self._open()

    def columns(self, table: sa.Table) -> list[sa.Column[Any]]:
        """Return the columns that a table has in this store; a store opened for reading may have an older schema."""
        return [one for one in table.columns if ADDED_IN.get((table.name, one.name), 1) <= self.version]

    def _open(self) -> None:
        with self.read() as connection:
            version = self._version(connection)
        if version is None and self.read_only:
            raise UserError(
                f"{self.name} contains no results.", hint="Give the path of a store that `crosstok run` has written."
            )
        if version is None:
            with self.write() as connection:
                self._alone(connection)
                version = self._version(connection)  # another process may have made the tables by now
                if version is None:
                    version = SCHEMA_VERSION
                    METADATA.create_all(connection)
                    connection.execute(sa.insert(STORE_SCHEMA), {"version": version})
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{self.name} has schema version {version}; this crosstok reads up to {SCHEMA_VERSION}.",
                hint="Upgrade crosstok.",
            )
        if version < SCHEMA_VERSION and not self.read_only:
            from crosstok.results.store.migrations import migrate  # alembic is loaded for old stores alone

            with self.write() as connection:
                self._alone(connection)
                migrate(connection, self._version(connection) or version)
            version = SCHEMA_VERSION
        self.version = version

    def _alone(self, connection: sa.Connection) -> None:
        """Wait until no other process changes the tables; SQLite has only one writer at a time anyway."""
        if self.path is None:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    def _version(self, connection: sa.Connection) -> int | None:
        """Return the schema version, or None for an empty database.

        Raises:
            UserError: the database belongs to another program.

        """
        known = sa.inspect(connection).get_table_names()
        if known and STORE_SCHEMA.name not in known:
            raise UserError(
                f"{self.name} is a database of another program (tables: {', '.join(sorted(known)[:3])}).",
                hint="Choose another path for the store.",
            )
        return connection.scalar(sa.select(STORE_SCHEMA.c.version)) if known else None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection whose statements all see the same state of the store."""
        engine = self._engine
        if self.path is None:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self.plainly(), engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a connection whose statements are committed together at the end, or not at all."""
        with self.plainly(), self._engine.execution_options(writes=True).begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections; SQLite then merges its write-ahead log into the file."""
        self._engine.dispose()

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """Turn errors of the driver into :class:`UserError`."""
        try:
            yield
        except DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorname", "")
            for prefix, (message, hint) in _MEANINGS.items():
                if code.startswith(prefix):
                    raise UserError(message.format(store=self.name), hint=hint) from error
            detail = str(error.orig).strip().splitlines()[0]
            raise UserError(f"The store {self.name} reported an error: {detail}.") from error
        except (ArgumentError, NoSuchModuleError) as error:
            hint = "Use a file path, sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME."
            raise UserError(f"{self.name!r} is not a valid store URL.", hint=hint) from error
        except ImportError as error:
            hint = "Install it in the environment of crosstok."
            raise UserError(f"The store {self.name} needs the Python package {error.name}.", hint=hint) from error


_MEANINGS = {
    "SQLITE_NOTADB": ("{store} is not a store: it is not an SQLite file.", "Give the path of a store."),
    "SQLITE_CORRUPT": ("The store {store} is damaged or truncated.", "Restore it from a backup."),
    "SQLITE_FULL": (
        "No space left on the disk for the store {store}.",
        "Free some space and run the command again; it resumes.",
    ),
    "SQLITE_READONLY": (
        "The store {store} cannot be written: it is read-only.",
        "Make it writable or choose another store.",
    ),
    "SQLITE_CANTOPEN": ("The store {store} cannot be opened.", "Check the permissions of the file and its folder."),
    "SQLITE_BUSY": (
        f"Another process has locked the store {{store}} for {BUSY_SECONDS} s.",
        "Stop that process and try again.",
    ),
    "SQLITE_IOERR": (
        "Reading or writing the store {store} failed.",
        "Check the disk. Network drives are not supported.",
    ),
    "SQLITE_TOOBIG": ("A value is too large for the store {store} (limit 1 GB).", "Lower max_bytes of the task."),
}


def _sqlite_path(text: str) -> Path:
    if text.startswith("sqlite:"):
        text = sa.make_url(text).database or ""
    if not text or text == ":memory:":
        raise UserError("A store needs a file; results in memory would be lost.", hint="Give a file path.")
    return Path(text).expanduser().absolute()


def _sqlite_engine(path: Path, *, read_only: bool) -> sa.Engine:
    if path.is_dir():
        raise UserError(f"{path} is a folder.", hint="Give the path of the store file in it.")
    if read_only and not path.exists():
        raise UserError(f"There is no store at {path}.", hint="Run a suite first, or give the path with --store.")
    if not path.parent.is_dir():
        _make_folder(path.parent)
    if path.exists():
        _check_length(path)

    def connect() -> sqlite3.Connection:
        mode = "ro" if read_only else "rwc"
        # SQLite needs to create a lock file next to a WAL file, unless the file is declared immutable.
        writable = os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        alone = read_only and not writable and not _log_of(path).exists()
        address = f"{path.as_uri()}?mode={mode}" + ("&immutable=1" if alone else "")
        return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool, json_serializer=_json)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: object) -> None:
        if not read_only:
            _keep_a_log(connection)
            # Survives a killed process; a power failure may lose the last transactions but never corrupts the file.
            connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -65536")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode, which is stored in the file; retry here, because SQLite does not wait for this statement."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _server_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, json_serializer=_json)
    if engine.dialect.name != "postgresql":
        raise UserError(f"{engine.dialect.name} is not supported as a store.", hint="Use SQLite or PostgreSQL.")
    return engine


def _make_folder(folder: Path) -> None:
    """Create the folder of a new store but not its parents: several missing levels suggest a typing error."""
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise UserError(
            f"The folder {folder.parent} does not exist.", hint="Create it or choose another path."
        ) from error
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be created: {error.strerror}.", hint="Choose another path."
        ) from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _check_length(path: Path) -> None:
    """Refuse a file shorter than its header states; SQLite would notice only when reading the missing pages."""
    try:
        with path.open("rb") as stream:
            header = stream.read(100)
            size = stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise UserError(f"The store {path} cannot be read: {error.strerror}.") from error
    if not size or _log_of(path).exists():
        return
    page = int.from_bytes(header[16:18], "big")
    page = 65536 if page == 1 else page
    if header.startswith(b"SQLite format 3\0") and size < page * int.from_bytes(header[28:32], "big"):
        message, hint = _MEANINGS["SQLITE_CORRUPT"]
        raise UserError(message.format(store=path), hint=hint)
