import io
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from crosstok import sandbox
from crosstok.sandbox import Program, selection
from crosstok.sandbox.backends import engine, image
from crosstok.sandbox.backends.docker import Docker

if TYPE_CHECKING:
    from docker.client import DockerClient

RIGHT = Program("right", "def one():\n    return 1\n", "assert one() == 1\n", "one")


@pytest.fixture
def client() -> "Iterator[DockerClient]":
    try:
        found = engine.connect(timeout=60)
    except engine.NoEngineError as fault:
        pytest.skip(str(fault))
    yield found
    found.close()


def containers(client: "DockerClient") -> set[str]:
    return {str(one.id) for one in client.containers.list(all=True, filters={"label": "crosstok=sandbox"})}


# --- the engine -------------------------------------------------------------------------------------------------------


def test_the_engine_that_docker_host_names_is_the_only_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    assert engine.addresses() == ["unix:///no/such.sock"]
    with pytest.raises(engine.NoEngineError, match=r"unix:///no/such\.sock: no such file or directory"):
        engine.connect()


def test_rootless_docker_and_podman_are_found_under_the_runtime_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "podman").mkdir()
    for place in ("docker.sock", "podman/podman.sock"):
        (tmp_path / place).touch()
    own = [address for address in engine.addresses() if str(tmp_path) in address]
    assert own == [f"unix://{tmp_path}/docker.sock", f"unix://{tmp_path}/podman/podman.sock"]


def test_without_an_engine_one_line_says_where_it_was_looked_for_and_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    report = selection.report(Docker())
    assert not report.available
    assert len(report.missing) == 1
    assert "no socket at /var/run/docker.sock" in report.missing[0]
    assert "\n" not in report.missing[0] + report.hint
    assert "apt install docker.io" in report.hint


def test_a_name_that_is_no_address_is_told_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "carrier pigeon")
    report = selection.report(Docker())
    assert "carrier pigeon" in report.missing[0]


DEFAULT_CAPABILITIES = {
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}


# --- the container ----------------------------------------------------------------------------------------------------


def test_the_container_has_no_network_no_capability_and_bounds_on_everything(client: "DockerClient") -> None:
    before = containers(client)
    with sandbox.open_pool("docker", workers=1) as pool:
        assert next(pool.run([RIGHT])).passed
        (new,) = containers(client) - before
        settings = client.api.inspect_container(new)
        host = settings["HostConfig"]
        assert (host["NetworkMode"], host["ReadonlyRootfs"]) == ("none", True)
        dropped = {name.removeprefix("CAP_") for name in host["CapDrop"]}
        assert dropped == {"ALL"} or dropped >= DEFAULT_CAPABILITIES  # Podman lists what it would have granted
        assert not host["CapAdd"]
        assert "no-new-privileges" in host["SecurityOpt"]
        assert not host["Privileged"]
        assert 0 < host["Memory"] == host["MemorySwap"]
        assert 0 < host["PidsLimit"] < 200
        assert all("ro" in bind.rpartition(":")[2].split(",") for bind in host["Binds"])
        assert settings["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert containers(client) == before


def test_a_container_that_cannot_start_is_removed(client: "DockerClient", monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise docker.errors.APIError("no room")

    before = containers(client)
    monkeypatch.setattr("docker.models.containers.Container.start", refuse)
    with pytest.raises(OSError, match="the container engine reported an error: no room"):
        Docker().start(0, ())
    assert containers(client) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_harness_that_is_killed_leaves_no_container(client: "DockerClient", number: signal.Signals) -> None:
    before = containers(client)
    script = (
        "import signal\nfrom crosstok import sandbox\nfrom crosstok.sandbox import Program\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "hang = Program('hang', 'while True:\\n    pass\\n', 'f()', 'f')\n"
        "ready = Program('ready', 'def f():\\n    return 1\\n', 'assert f() == 1\\n', 'f')\n"
        "with sandbox.open_pool('docker', workers=1) as pool:\n"
        "    for verdict in pool.run([ready, hang]):\n        print(verdict.id, flush=True)\n"
    )
    harness = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert harness.stdout is not None
    assert harness.stdout.readline() == "ready\n"
    assert containers(client) > before
    harness.send_signal(number)
    harness.wait(timeout=120)
    harness.stdout.close()
    deadline = time.monotonic() + 120
    while containers(client) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert containers(client) == before


# --- the image --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interpreter() -> bytes:
    return image.tarball([])


@pytest.fixture
def base(client: "DockerClient", interpreter: bytes) -> Iterator[str]:
    """The image that the Dockerfile starts from; where there is no registry, this interpreter under its name."""
    try:
        client.images.get(image.BASE)
    except docker.errors.ImageNotFound:
        pass
    else:
        yield image.BASE
        return
    out = io.BytesIO(interpreter)
    with tarfile.open(fileobj=out, mode="a") as archive:
        link = tarfile.TarInfo("usr/local/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, os.path.realpath(sys.executable)
        if link.linkname != "/usr/local/bin/python3":
            archive.addfile(link)
    image.import_archive(client, out.getvalue(), image.BASE, 'ENV PATH="/usr/local/bin:/usr/bin"')
    yield image.BASE
    client.images.remove(image.BASE, force=True)


def test_an_image_is_built_from_the_dockerfile_and_judges_like_the_packed_one(
    client: "DockerClient", base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CROSSTOK_NETWORK", raising=False)
    monkeypatch.setattr("crosstok.sandbox.backends.image.REPOSITORY", "crosstok-sandbox-test")
    monkeypatch.setattr("crosstok.sandbox.backends.image.packed", None)  # falling back would fail
    try:
        version = Program(
            "version", "import sys\ndef f():\n    return sys.version\n", f"assert f() == {sys.version!r}\n", "f"
        )
        wrong = Program("wrong", "def one():\n    return 2\n", "assert one() == 1\n", "one")
        with sandbox.open_pool("docker", workers=1) as pool:
            verdicts = {verdict.id: verdict.passed for verdict in pool.run([RIGHT, wrong, version])}
        assert verdicts["right"]
        assert not verdicts["wrong"]
        assert verdicts["version"] or base  # the registry's interpreter may come from another compiler
        (made,) = client.images.list("crosstok-sandbox-test")
        assert "-built-" in made.tags[0]
        assert made.attrs["Config"]["Entrypoint"] == ["python3"]
    finally:
        for left in client.images.list("crosstok-sandbox-test"):
            client.images.remove(left.id, force=True)


class _Images:
    """An engine's images: it has none, and building fails."""

    def __init__(self, *there: str) -> None:
        self.there = there
        self.wanted: list[Any] = []

    def get(self, name: str) -> str:
        if name not in self.there:
            raise docker.errors.ImageNotFound("no such image")
        return name

    def build(self, **wanted: Any) -> None:
        self.wanted.append(wanted)
        raise docker.errors.APIError("dial tcp: lookup registry-1.docker.io: no such host\nand more")


class _Client:
    def __init__(self, *there: str) -> None:
        self.images = _Images(*there)
        self.api = self
        self.imported: list[dict[str, Any]] = []
        self.named: dict[str, str] = {}

    def import_image_from_data(self, data: bytes, **settings: Any) -> str:
        self.imported.append({"data": data, **settings})
        return json.dumps({"status": f"sha256:{'0' * 64}"})

    def tag(self, name: str, repository: str, tag: str) -> None:
        self.named = {name: f"{repository}:{tag}"}


def test_without_the_network_nothing_is_asked_of_a_registry(
    interpreter: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CROSSTOK_NETWORK", raising=False)
    monkeypatch.setattr("crosstok.sandbox.backends.image.tarball", lambda _: interpreter)
    client = _Client()
    found = image.ready(client, ())  # type: ignore[arg-type]  # a stand-in
    assert client.images.wanted == []
    assert "-packed-" in found.name
    assert client.named == {f"sha256:{'0' * 64}": found.name}
    with tarfile.open(fileobj=io.BytesIO(client.imported[0]["data"])) as archive:
        names = set(archive.getnames())
    assert os.path.realpath(sys.executable).lstrip("/") in names
    assert not any("site-packages" in name or name.endswith("bin/sh") for name in names)
    assert client.imported[0]["changes"] == [f'ENTRYPOINT ["{os.path.realpath(sys.executable)}"]']


def test_with_the_network_a_registry_that_cannot_be_reached_is_told_and_made_up_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CROSSTOK_NETWORK", "1")
    monkeypatch.setattr("crosstok.sandbox.backends.image.tarball", lambda _: b"")
    client = _Client()
    assert "-packed-" in image.ready(client, ()).name  # type: ignore[arg-type]  # a stand-in
    assert client.images.wanted[0]["buildargs"] == {"PYTHON": platform.python_version()}
    assert caplog.messages == [
        "Cannot build the container image (dial tcp: lookup registry-1.docker.io: no such host); "
        "packing this interpreter instead."
    ]


def test_an_image_is_made_once_for_all_packages_that_need_the_same_of_the_system() -> None:
    names = {image._packed_name(sandbox.packages.package_paths(packages)) for packages in ([], ["six"], ["pytz"])}
    assert len(names) == 1


def test_a_built_image_installs_packages_in_the_versions_of_this_host() -> None:
    from importlib.metadata import version  # this test only

    lines = image.requirements(["PIL", "dateutil"]).splitlines()
    assert {name.partition("==")[0].lower() for name in lines} == {"pillow", "python-dateutil", "six"}
    assert f"pillow=={version('pillow')}" in lines
    assert image.requirements([]) == ""


def test_a_machine_without_linux_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSTOK_NETWORK", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="set CROSSTOK_NETWORK=1 to build from python:"):
        image.ready(_Client(), ())  # type: ignore[arg-type]  # a stand-in


def test_a_dead_worker_in_a_container_is_replaced(client: "DockerClient", caplog: pytest.LogCaptureFixture) -> None:
    before = containers(client)
    with sandbox.open_pool("docker", workers=1) as pool:
        assert next(pool.run([RIGHT])).passed
        (running,) = containers(client) - before
        client.api.kill(running)
        assert next(pool.run([RIGHT])).passed
    assert "Sandbox worker 0" in caplog.text
    assert containers(client) == before


def test_a_pool_keeps_its_containers_warm(client: "DockerClient") -> None:
    before = containers(client)
    with sandbox.open_pool("docker", workers=1) as pool:
        seen = set()
        for _ in range(3):
            assert next(pool.run([RIGHT])).passed
            seen |= containers(client) - before
    assert len(seen) == 1
