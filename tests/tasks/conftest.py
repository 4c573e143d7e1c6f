"""A small data folder in the layout of the real one: a few rows of our own in each set's schema."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

MBPP_ROWS = {
    "prompt": [2, 3, 4, 5],
    "test": [11, 12],
    "validation": [511],
    "train": [601],
}


def mbpp_row(number: int) -> dict[str, Any]:
    name = f"times_{number}"
    return {
        "task_id": number,
        "text": f"Write a function to multiply a number by {number}.",
        "code": f"def {name}(x):\r\n    return x * {number}\r\n",
        "test_list": [f"assert {name}({value}) == {value * number}" for value in (0, 1, 7)],
        "test_setup_code": "",
        "challenge_test_list": [f"assert {name}(-1) == {-number}"] if number == 11 else [],
    }


ROWS: dict[str, list[dict[str, Any]]] = {
    **{
        f"hub/google-research-datasets/mbpp/full/{split}": [mbpp_row(number) for number in numbers]
        for split, numbers in MBPP_ROWS.items()
    },
    "hub/neulab/odex/en/test": [
        {
            "task_id": task_id,
            "intent": "join the `words` with \\n",
            "prompt": f"def f_{task_id}(words):\n\treturn ",
            "suffix": "",
            "canonical_solution": "re.sub(' ', '\\n', ' '.join(words))",
            "test_start": "\nimport re\n\ndef check(candidate):",
            "test": ["\n    assert candidate(['a', 'b']) == 'a\\nb'\n"],
            "entry_point": f"f_{task_id}",
            "library": ["re"],
        }
        for task_id in ("7", "7", "8")
    ],
    "hub/FudanSELab/ClassEval/default/test": [
        {
            "task_id": "ClassEval_0",
            "class_name": "Tally",
            "class_description": "",
            "import_statement": ["import math"],
            "skeleton": (
                "import math\n\nclass Tally:\n    def __init__(self):\n        self.total = 0\n"
                '    def add(self, x):\n        """Add x, rounded up."""\n'
            ),
            "solution_code": (
                "import math\n\nclass Tally:\n    def __init__(self):\n        self.total = 0\n"
                "    def add(self, x):\n        self.total += math.ceil(x)\n        return self.total\n"
            ),
            "test": (
                "import unittest\n\nclass TallyTest(unittest.TestCase):\n    def test_add(self):\n"
                "        tally = Tally()\n        tally.add(1.5)\n        self.assertEqual(tally.add(1), 3)\n\n"
                "if __name__ == '__main__':\n    unittest.main()\n"
            ),
        }
    ],
    "raw/exercism_python/test": [
        {
            "task_id": "exercism/doubling",
            "instructions": "# Instructions\n\nDouble a number.\n",
            "solution_files": {"doubling.py": "def double(x):\n    pass\n"},
            "example_files": {".meta/example.py": "def double(x):\n    return 2 * x\n"},
            "editor_files": {},
            "test_files": {
                "doubling_test.py": (
                    "import unittest\n\nfrom doubling import (\n    double as twice,\n)\n\n"
                    "class DoublingTest(unittest.TestCase):\n    def test_four(self):\n"
                    "        self.assertEqual(twice(4), 8)\n\n"
                    "    @unittest.skip('extra')\n    def test_five(self):\n        self.fail()\n"
                )
            },
        },
        {
            "task_id": "exercism/reader",
            "instructions": "# Instructions\n\nRead a file.\n",
            "solution_files": {"reader.py": "def read(name):\n    pass\n"},
            "example_files": {
                ".meta/example.py": "def read(name):\n    with open(name) as f:\n        return f.read()\n"
            },
            "editor_files": {},
            "test_files": {
                "reader_test.py": (
                    "import unittest\nfrom unittest import mock\nimport reader\n\n"
                    "class ReaderTest(unittest.TestCase):\n    def test_read(self):\n"
                    "        opened = mock.mock_open(read_data='hello')\n"
                    "        with mock.patch('reader.open', opened, create=True):\n"
                    "            self.assertEqual(reader.read('x'), 'hello')\n"
                )
            },
        },
    ],
    "hub/bigcode/bigcodebench-hard/default/v0.1.x": [
        {
            "task_id": "BigCodeBench/0",
            "complete_prompt": 'import math\n\ndef task_func(x):\n    """Square root."""\n',
            "instruct_prompt": "Square root. Start with:\n```\nimport math\ndef task_func(x):\n```",
            "code_prompt": "import math\ndef task_func(x):\n",
            "canonical_solution": "    return math.sqrt(x)\n",
            "test": (
                "import unittest\nclass TestCases(unittest.TestCase):\n    def test_case_1(self):\n"
                "        self.assertAlmostEqual(task_func(4), math.sqrt(4))\n"
            ),
            "entry_point": "task_func",
        }
    ],
    "hub/bigcode/bigcodebench/default/v0.1.4": [
        {
            "task_id": "BigCodeBench/7",
            "complete_prompt": 'import math\n\ndef task_func(x):\n    """Square root."""\n',
            "instruct_prompt": "Square root. Start with:\n```\nimport math\ndef task_func(x):\n```",
            "code_prompt": "import math\ndef task_func(x):\n",
            "canonical_solution": "    return math.sqrt(x)\n",
            "test": (
                "import unittest\nclass TestCases(unittest.TestCase):\n    def test_case_1(self):\n"
                "        self.assertAlmostEqual(task_func(9), 3)\n"
            ),
            "entry_point": "task_func",
        }
    ],
    "hub/evalplus/humanevalplus/default/test": [
        {
            "task_id": "HumanEval/0",
            "prompt": 'def half(x: float) -> float:\n    """Half of x."""\n',
            "canonical_solution": "\n    return x / 2\n",
            "entry_point": "half",
            "test": (
                "import numpy as np\n\ndef assertion(out, exp, atol):\n    assert np.allclose(out, exp, atol=atol)\n\n"
                "def check(candidate):\n    inputs = [[1.0], [3.0]]\n    results = [0.5, 1.5]\n"
                "    for inp, exp in zip(inputs, results):\n        assertion(candidate(*inp), exp, 1e-6)\n"
            ),
        }
    ],
    "hub/evalplus/mbppplus/default/test": [
        {
            "task_id": number,
            "prompt": f"Write a function to multiply a number by {number}.",
            "code": f"def times(x):\r\n    return x * {number}\r\n",
            "source_file": "",
            "test_imports": ["import math"],
            "test_list": [f"assert times(2) == {2 * number}"],
            "test": (
                f"inputs = [[1], [math.floor(2.5)]]\nresults = [{number}, {2 * number}]\n"
                "for inp, exp in zip(inputs, results):\n    assert times(*inp) == exp\n"
            ),
        }
        for number in (2, 11, 602)
    ],
    "raw/quixbugs/test": [
        {
            "task_id": "QuixBugs/pairs",
            "buggy": "def pairs(n):\n    for i in range(n):\n        yield (i, i)\n",
            "correct": "def pairs(n):\n    for i in range(n):\n        yield (i, i + 1)\n",
            "testcases_jsonl": "[[2], [[0, 1], [1, 2]]]\n[[0], []]\n",
        },
        {"task_id": "QuixBugs/node", "buggy": "class Node: ...", "correct": "class Node: ...", "testcases_jsonl": ""},
    ],
    "hub/bigcode/humanevalpack/python/test": [
        {
            "task_id": "Python/0",
            "prompt": 'def larger(a: int, b: int) -> int:\n    """The larger one."""\n',
            "declaration": "def larger(a: int, b: int) -> int:\n",
            "buggy_solution": "    return min(a, b)\n",
            "canonical_solution": "    return max(a, b)\n",
            "test": "def check(larger):\n    assert larger(1, 2) == 2\n    assert larger(3, 2) == 3\n\ncheck(larger)",
            "entry_point": "larger",
        }
    ],
    "hub/cruxeval-org/cruxeval/default/test": [
        {"id": "sample_0", "code": "def f(x):\n    return [x] * 2", "input": "'a'", "output": "['a', 'a']"}
    ],
    "hub/openai/gsm8k/main/test": [
        {
            "question": "Ann has 1,000 nuts and eats 3. How many are left?",
            "answer": "1000-3=<<1000-3=997>>997\n#### 997",
        }
    ],
    "hub/openai/gsm8k/main/train": [
        {
            "question": f"Bob has {n} pens and buys one. How many now?",
            "answer": f"{n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}",
        }
        for n in range(4)
    ],
    "raw/svamp/all": [
        {
            "ID": "chal-1",
            "Body": "A box holds 8 eggs. Three are broken",
            "Question": "How many are whole?",
            "Equation": "( 8.0 - 3.0 )",
            "Answer": 5.0,
            "Type": "Subtraction",
        }
    ],
    "hub/HuggingFaceH4/MATH-500/default/test": [
        {
            "problem": f"What is ${n}/4$ in lowest terms?",
            "solution": f"It is $\\boxed{{\\frac{{{n}}}{{4}}}}$.",
            "answer": f"\\frac{{{n}}}{{4}}",
            "subject": "Prealgebra",
            "level": 1,
        }
        for n in (1, 3)
    ],
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small data folder."""
    folder = tmp_path_factory.mktemp("data")
    for path, rows in ROWS.items():
        file = folder / f"{path}.jsonl.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return folder
