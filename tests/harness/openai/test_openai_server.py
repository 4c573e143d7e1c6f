"""Answers from a real server on the loopback: ``transformers serve``, and a small one that misbehaves on order."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_servers import Answer, ScriptedServer, TransformersServer, free_port, only_loopback

from crosstok.distill.models import checkpoints
from crosstok.errors import RunIncomplete, UserError
from crosstok.harness.generation.answers import Generation
from crosstok.harness.generation.generator import Generator
from crosstok.harness.openai.generator import ServerGenerator
from crosstok.harness.openai.protocol import KEY_VARIABLE, find_served
from crosstok.model_source import ModelSource
from crosstok.tasks.task import Generate, Sampling

PROMPTS = ["def mean(", "The sun was up", "class Stack:\n"]


@pytest.fixture(autouse=True)
def _loopback() -> None:
    only_loopback()


def generator(url: str, model: str = "m", **options: Any) -> ServerGenerator:
    return ServerGenerator(ModelSource("server", url, served=model), pause_s=0.01, **options)


def sort(answers: list[Generation]) -> list[Generation]:
    return sorted(answers, key=lambda answer: (answer.index, answer.sample))


# --- names ---


def test_a_source_names_url_and_model() -> None:
    source = ModelSource.parse("server:http://127.0.0.1:8000/v1/#owner/name")
    assert source == ModelSource("server", "http://127.0.0.1:8000/v1", served="owner/name")
    assert ModelSource.parse(str(source)) == source
    assert ModelSource.parse("server:https://host/v1").served == ""


@pytest.mark.parametrize("wrong", ["server:", "server:localhost:8000", "server:ftp://x/v1", "server:http://h:80x/v1"])
def test_what_is_no_url_is_one_clear_line(wrong: str) -> None:
    with pytest.raises(UserError, match="server:http://HOST:PORT"):
        ModelSource.parse(wrong)


# --- transformers serve ---


def test_greedy_answers_of_transformers_serve_are_our_own(
    transformers_server: TransformersServer, tiny_folder: Path
) -> None:
    requests = [Generate(prompt, max_bytes=60) for prompt in PROMPTS]
    ours = sort(list(Generator(checkpoints.load(tiny_folder)).generate(requests)))
    theirs = sort(list(generator(transformers_server.url, transformers_server.model).generate(requests)))
    for one, other in zip(ours, theirs, strict=True):
        # A random model writes bytes that are no UTF-8; the server can only show that they were there.
        readable = one.text.partition("\ufffd")[0]
        assert other.text.startswith(readable)
        assert len(other.data) <= 60
        assert other.prompt_text == one.prompt_text
    assert any("\ufffd" not in one.text and one.data == other.data for one, other in zip(ours, theirs, strict=True))


def test_a_stop_is_cut_here_out_of_what_transformers_serve_says(transformers_server: TransformersServer) -> None:
    source = generator(transformers_server.url, transformers_server.model)
    [whole] = source.generate([Generate(PROMPTS[0], max_bytes=60)])
    stop = whole.text[5:8]
    [cut] = source.generate([Generate(PROMPTS[0], max_bytes=60, stops=(stop,))])
    assert (cut.text, cut.stop_reason) == (whole.text[: whole.text.index(stop)], "stop")


# --- a server that does as it is told ---


@pytest.fixture
def scripted() -> Iterator[Callable[[Answer], tuple[str, ScriptedServer]]]:
    servers: list[ScriptedServer] = []

    def start(answer: Answer) -> tuple[str, ScriptedServer]:
        servers.append(ScriptedServer(answer))
        return servers[-1].url, servers[-1]

    yield start
    for server in servers:
        server.close()


END = {"choices": [{"text": "", "finish_reason": "stop"}]}
LENGTH = {"choices": [{"text": "", "finish_reason": "length"}]}


def test_answers_are_cut_on_the_byte_however_the_server_cuts_its_pieces(scripted: Any) -> None:
    url, script = scripted(lambda body, _: (200, ["ab\nd", "e", "f x", "never", END]))
    stops = (*(f"unused {number}" for number in range(6)), "\ndef")
    [answer] = generator(url).generate([Generate("p", stops=stops)])
    assert (answer.data, answer.stop_reason) == (b"ab", "stop")
    [answer] = generator(url).generate([Generate("p", max_bytes=6)])
    assert (answer.data, answer.stop_reason) == (b"ab\ndef", "byte_budget")
    [answer] = generator(url).generate([Generate("p")])
    assert (answer.text, answer.stop_reason) == ("ab\ndef xnever", "end")
    path, body, key = script.asked[0]
    assert (path, body["prompt"], body["max_tokens"], body["temperature"], key) == ("/v1/completions", "p", 1024, 0, "")
    assert "stop" not in body


def test_a_budget_cuts_between_characters_and_a_servers_own_limit_is_told(scripted: Any) -> None:
    url, _ = scripted(lambda body, _: (200, ["né", "€", LENGTH]))
    small, large = sort(list(generator(url).generate([Generate("p", max_bytes=5), Generate("p")])))
    assert (small.data, small.stop_reason) == ("né".encode(), "byte_budget")
    assert (large.text, large.stop_reason) == ("né€", "token_cap")


def test_every_seed_is_one_request_with_its_sampling(scripted: Any) -> None:
    url, script = scripted(lambda body, _: (200, [f"seed {body['seed']}", END]))
    request = Generate("p", sampling=Sampling(0.5, 0.9, 40), seeds=(4, 2**31 + 5))
    answers = sort(list(generator(url).generate([request])))
    assert [(answer.sample, answer.text) for answer in answers] == [(0, "seed 4"), (1, "seed 5")]
    assert {(body["temperature"], body["top_p"], body["top_k"]) for _, body, _ in script.asked} == {(0.5, 0.9, 40)}


def test_messages_go_to_the_servers_own_template(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    url, script = scripted(lambda body, _: (200, [{"choices": [{"delta": {"content": "hi"}}]}, END]))
    opened = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "```python\n"})
    answers = sort(
        list(generator(url, parallel=1).generate([Generate(messages=opened[:1]), Generate(messages=opened)]))
    )
    assert [answer.text for answer in answers] == ["hi", "hi"]
    (path, first, key), (_, second, _) = script.asked
    assert (path, key, first["messages"]) == ("/v1/chat/completions", "Bearer secret", [dict(opened[0])])
    assert "continue_final_message" not in first
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)


def test_passing_failures_are_repeated_from_the_beginning(scripted: Any) -> None:
    replies = [
        (503, {"error": "loading"}),
        (200, ["half an ans"]),
        (200, [{"error": "worker died"}]),
        (200, ["whole", END]),
    ]
    url, _ = scripted(lambda body, number: replies[number - 1])
    source = generator(url)
    [answer] = source.generate([Generate("p")])
    assert (answer.text, source.retries) == ("whole", 3)


def test_a_server_that_dies_costs_no_answer_that_is_complete(scripted: Any) -> None:
    url, script = scripted(lambda body, number: (200, ["ok", END]) if number <= 4 else (500, {"error": "gone"}))
    found: list[Generation] = []
    with pytest.raises(RunIncomplete, match=r"failed 3 times.*4 of 10 answers are complete"):
        found.extend(generator(url, attempts=3, parallel=1).generate([Generate(str(n)) for n in range(10)]))
    assert len(script.asked) == 4 + 3, "the others are not tried one by one"


def test_answers_come_before_the_failure(scripted: Any) -> None:
    url, _ = scripted(lambda body, number: (200, ["ok", END]) if number <= 4 else (500, {"error": "gone"}))
    answers = generator(url, attempts=2, parallel=1).generate([Generate(str(number)) for number in range(10)])
    assert [next(answers).text for _ in range(4)] == ["ok"] * 4
    with pytest.raises(RunIncomplete):
        next(answers)


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(RunIncomplete, match=r"failed 2 times: .*refused"):
        list(generator(url, attempts=2).generate([Generate("p")]))
    with pytest.raises(UserError, match=r"Cannot list the models .*refused.*Start the server"):
        find_served(f"server:{url}")


def test_what_the_server_refuses_is_not_tried_again(scripted: Any) -> None:
    url, script = scripted(lambda body, _: (401, {"error": "no key"}))
    with pytest.raises(UserError, match=f"status 401.*Set {KEY_VARIABLE}"):
        list(generator(url, parallel=1).generate([Generate("p"), Generate("q")]))
    assert len(script.asked) == 1


TOO_LONG = {"message": "This model's maximum context length is 2048 tokens."}


def test_a_prompt_too_long_for_the_server_is_answered_with_nothing(scripted: Any) -> None:
    url, _ = scripted(lambda body, _: (400, TOO_LONG) if len(body["prompt"]) > 9 else (200, ["ok", END]))
    long, short = sort(list(generator(url).generate([Generate("p" * 10), Generate("p")])))
    assert (long.data, long.stop_reason) == (b"", "context_full")
    assert short.text == "ok"


@pytest.mark.parametrize("size", [1, 2, 36, 37, 38, 500])
def test_a_budget_beyond_the_servers_context_gets_what_the_context_holds(scripted: Any, size: int) -> None:
    def one_byte_a_token(body: dict[str, Any], _: int) -> tuple[int, Any]:
        if body["max_tokens"] > 37:
            return 400, TOO_LONG
        ends = size <= body["max_tokens"]
        return 200, ["x" * min(size, body["max_tokens"]), END if ends else LENGTH]

    url, _ = scripted(one_byte_a_token)
    [answer] = generator(url).generate([Generate("p", max_bytes=400)])
    assert (len(answer.data), answer.stop_reason) == ((size, "end") if size <= 37 else (37, "context_full"))


def test_a_prompt_that_is_no_text_is_refused(scripted: Any) -> None:
    url, _ = scripted(lambda body, _: (200, ["ok", END]))
    refused, fine = sort(list(generator(url).generate([Generate("a \ud800"), Generate("p")])))
    assert (refused.stop_reason, refused.facts["refused"][:10]) == ("refused", "The prompt")
    assert fine.text == "ok"


def test_a_server_that_falls_silent_holds_nobody_who_has_heard_enough(scripted: Any) -> None:
    silent = threading.Event()

    def half() -> Iterator[str]:
        yield "half"
        silent.wait(20)

    url, _ = scripted(lambda body, _: (200, half()) if body["prompt"] == "slow" else (200, ["ok", END]))
    answers = generator(url).generate([Generate("slow"), Generate("quick")])
    assert next(answers).text == "ok"
    began = time.monotonic()
    answers.close()  # type: ignore[attr-defined]  # a generator
    assert time.monotonic() - began < 2
    silent.set()


# --- which model it is ---


def test_the_only_model_of_a_server_need_not_be_named(scripted: Any) -> None:
    url, _ = scripted(lambda body, _: (404, {"error": "no such model"}))
    found = find_served(f"server:{url}")
    assert found.source == ModelSource("server", url, served="only")
    assert found == find_served(f"server:{url}#only")
    with pytest.raises(UserError, match=r"Unknown model of the server at .*'onyl'. Did you mean 'only'"):
        find_served(f"server:{url}#onyl")


def test_a_model_is_told_from_another_by_address_name_and_what_lasts(scripted: Any) -> None:
    listed = {"id": "only", "created": 1, "max_model_len": 2048}
    url, script = scripted(lambda body, _: (200, ["ok", END]))
    script.listed = [listed]
    first = find_served(f"server:{url}")
    script.listed = [{**listed, "created": 2}]
    assert find_served(f"server:{url}").fingerprint == first.fingerprint
    script.listed = [{**listed, "max_model_len": 4096}]
    assert find_served(f"server:{url}").fingerprint != first.fingerprint
    other, its_script = scripted(lambda body, _: (200, ["ok", END]))
    its_script.listed = [listed]
    assert find_served(f"server:{other}").fingerprint != first.fingerprint


def test_a_model_that_a_server_loads_without_listing_it_is_found(scripted: Any) -> None:
    url, _ = scripted(lambda body, _: (200, {"choices": [{"text": "x"}]}))
    assert find_served(f"server:{url}#folder/name").source.served == "folder/name"
