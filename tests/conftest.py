"""Fixtures for every test folder: toy tokenizers and tiny models.

The builders themselves are importable from any test (``from toy_tokenizers import toy_tokenizer``), because a
hypothesis test or a parametrisation needs the function rather than the fixture.
"""

import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: it reads this once
os.environ["PIP_NO_INDEX"] = "1"  # pip runs in a process of its own, where pytest-socket does not reach

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from toy_tokenizers import BUILDERS, toy_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Under nohup, in `make test &` and on some CI runners the suite starts with SIGINT ignored, and so would every process
# that it starts. Tests that interrupt a command need the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine and every day; `--hypothesis-profile=search` goes looking for new ones.
settings.register_profile("steady", deadline=None, max_examples=60, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("steady")


SLOW = (
    "crosstok/test_api.py",
    "crosstok/test_model_source.py",
    "crosstok/test_plugins.py",
    "distill/embeddings/test_token_distillation.py",
    "distill/ensemble",
    "distill/inspection",
    "distill/losses/test_cross_losses.py",
    "distill/losses/test_learned_losses.py",
    "distill/losses/test_loss_invariants.py",
    "distill/models/test_byte_ngrams.py",
    "distill/models/test_fused_scoring.py",
    "distill/models/test_lora.py",
    "distill/recipes",
    "distill/training",
    "docs",
    "examples",
    "harness/cli/test_ci_gate_page.py",
    "harness/cli/test_cli.py",
    "harness/cli/test_interruption.py",
    "harness/cli/test_results_commands.py",
    "harness/generation/test_engine_agreement.py",
    "harness/generation/test_out_of_memory.py",
    "harness/generation/test_own_tokens_engine.py",
    "harness/jobs",
    "harness/likelihood/test_continuations.py",
    "harness/likelihood/test_likelihood.py",
    "harness/lm_eval",
    "results/web/test_leaderboard.py",
    "sandbox/test_faithfulness.py",
    "sandbox/test_pool.py",
    "sandbox/test_scheduling.py",
    "sandbox/test_semantics.py",
    "test_benches.py",
    "test_distribution.py",
)
"""Files and folders whose tests take more than a second or so each: whole runs, trainings, builds."""
MARKS_OF_FIXTURES = {
    "campaign": "attack",
    "client": "docker",
    "database_url": "postgres",
    "smollm2": "real",
    "transformers_server": "server",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out, by file and by what a test asks for."""
    tests = Path(__file__).parent
    slow = [tests / name for name in SLOW]
    for path in slow:
        assert path.exists(), f"{path} is listed in tests/conftest.py and does not exist"
    for item in items:
        if any(item.path.is_relative_to(path) for path in slow):
            item.add_marker("slow")
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKS_OF_FIXTURES:
                item.add_marker(MARKS_OF_FIXTURES[fixture])


@pytest.fixture(params=sorted(BUILDERS))
def each_tokenizer(request: pytest.FixtureRequest) -> "PreTrainedTokenizerFast":
    """Run the test once per toy tokenizer."""
    return toy_tokenizer(request.param)


@pytest.fixture
def byte_tokenizer() -> "PreTrainedTokenizerFast":
    return toy_tokenizer("byte")


@pytest.fixture
def bpe_tokenizer() -> "PreTrainedTokenizerFast":
    return toy_tokenizer("bpe")


@pytest.fixture
def bos_tokenizer() -> "PreTrainedTokenizerFast":
    return toy_tokenizer("bos")


@pytest.fixture
def superword_tokenizer() -> "PreTrainedTokenizerFast":
    return toy_tokenizer("superword")


@pytest.fixture
def spm_tokenizer() -> "PreTrainedTokenizerFast":
    return toy_tokenizer("spm")


@pytest.fixture
def make_tiny_model() -> "Callable[..., PreTrainedModel]":
    """Return the builder ``tiny_model(tokenizer, shape, tied=…, width=…, rows=…, seed=…)``."""
    from tiny_models import tiny_model  # torch is loaded only by the tests that need a model

    return tiny_model
