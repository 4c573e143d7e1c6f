from dataclasses import replace

from crosstok.sandbox import Mode, Pool, Program, calibrate

SLOW = "import time\ndef f(x):\n    end = time.process_time() + 0.3\n    while time.process_time() < end:\n        pass\n    return x\n"
REFERENCES = [
    Program("quick", "def f(x):\n    return x\n", "assert f(1) == 1\nassert f(2) == 2\n", "f"),
    Program("slow", SLOW, "assert f(1) == 1\n", "f"),
    Program(
        "patching",
        "def g():\n    return 0\ndef f(x):\n    return x + g()\n",
        "from unittest.mock import patch\nwith patch('solution.g', lambda: 3):\n    assert f(1) == 4\n",
        "f",
    ),
    Program(
        "random calls",
        "def f(x):\n    return x\n",
        "import os\nfor x in range(os.urandom(2)[0] * 256 + os.urandom(1)[0] + 1):\n    assert f(x) == x\n",
        "f",
    ),
    Program("broken", "def f(x):\n    return 0\n", "assert f(1) == 1\n", "f"),
]


def test_references_set_mode_limits_and_calls(pool: Pool) -> None:
    found = calibrate(pool, REFERENCES, factor=10, minimum_s=1.0)
    assert found.requirements["quick"].expected_calls == 2
    assert found.requirements["quick"].limit_s == 1.0
    assert 3.0 <= found.requirements["slow"].limit_s < 20
    assert found.requirements["random calls"].expected_calls is None
    assert found.guarded == ["patching"]
    assert list(found.excluded) == ["broken"]
    assert "split: failed" in found.excluded["broken"]
    assert (found.factor, found.minimum_s) == (10, 1.0)


def test_a_requirement_goes_onto_a_candidate(pool: Pool) -> None:
    found = calibrate(pool, REFERENCES[:3:2])
    fewer = replace(REFERENCES[0], tests="assert f(1) == 1\n")  # as if a candidate had cut a test short
    assert not next(pool.run([found.requirements["quick"].apply(fewer)])).passed
    applied = found.requirements["patching"].apply(REFERENCES[2])
    assert applied.mode is Mode.GUARDED
    assert next(pool.run([applied])).passed
