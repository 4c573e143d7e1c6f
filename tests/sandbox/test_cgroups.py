import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from crosstok.sandbox import cgroups
from crosstok.sandbox.worker import seccomp


def test_version_2_takes_the_nearest_group_that_hands_on_both_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "user.slice" / "session"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("")
    (own.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    monkeypatch.setattr(cgroups, "_own_path", lambda controller: "/user.slice/session")
    group = cgroups.create(tmp_path)
    assert group is not None
    (folder,) = own.parent.glob("crosstok-*")
    for name in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs"):
        (folder / name).touch()
    group.limit(1 << 30, 70)
    group.add(4711)
    assert {name: (folder / name).read_text() for name in ("memory.max", "pids.max", "cgroup.procs")} == {
        "memory.max": str(1 << 30),
        "pids.max": "70",
        "cgroup.procs": "4711",
    }


def test_groups_of_a_harness_that_was_killed_are_removed_by_the_next_one() -> None:
    group = cgroups.create()
    if group is None:
        pytest.skip("no control group may be made here")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = {folder.with_name(f"crosstok-{ended.pid}-0") for folder in group._folders.values()}
    for folder in left:
        folder.mkdir()
    group.remove()
    again = cgroups.create()
    assert again is not None
    again.remove()
    assert not any(folder.exists() for folder in left)


def test_where_no_group_may_be_made_there_is_none(tmp_path: Path) -> None:
    assert cgroups.create(tmp_path) is None


def test_a_real_group_bounds_memory_that_no_process_limit_counts() -> None:
    group = cgroups.create()
    if group is None:
        pytest.skip("no control group may be made here")
    script = (
        "import os, sys\nsys.stdin.read()\nd = os.memfd_create('hoard')\n"
        "for _ in range(256):\n    os.write(d, b'x' * (1 << 20))\nprint('all of it')"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    group.add(process.pid)
    group.limit(64 << 20, 10)
    out, _ = process.communicate("")
    group.remove()
    assert (process.returncode, out) == (-9, "")
    assert not list(cgroups.MOUNTS.glob(f"**/crosstok-{os.getpid()}-*"))


def test_the_seccomp_program_is_whole_instructions_that_end_in_a_decision() -> None:
    for processes in (True, False):
        code = seccomp.program(processes=processes)
        assert len(code) % 8 == 0
        instructions = list(struct.iter_unpack("=HBBI", code))
        assert instructions[-1] == (6, 0, 0, 0x7FFF0000)
        for place, (operation, yes, no, _) in enumerate(instructions):
            if operation & 7 == 5:  # a jump stays inside
                assert place + 1 + max(yes, no) < len(instructions)


def test_there_is_a_table_for_both_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    for machine in ("x86_64", "aarch64"):
        fake = os.uname_result((here.sysname, here.nodename, here.release, here.version, machine))
        monkeypatch.setattr(os, "uname", lambda fake=fake: fake)
        assert len(seccomp.program()) > 800
        numbers = [pair[("x86_64", "aarch64").index(machine)] for pair in seccomp._DENIED.values()]
        real = [number for number in numbers if number >= 0]
        assert len(real) == len(set(real))
