"""Answers from a server that speaks OpenAI's API (vLLM, llama.cpp, ``transformers serve``), cut here byte for byte.

Servers differ in what they do at a stop: some leave it out, some keep it, some find it only at the border of a token,
most take no more than four; and they know no budget in bytes. So no stops are sent. The answer is streamed, every piece
goes through the same :class:`AnswerBytes` as an answer of our own engine, and the connection is closed on the byte that
ends it, which is what tells these servers to stop. ``max_tokens`` is the budget in bytes, as no token is shorter. A
server that refuses so many, for its context, is asked for fewer: the most that it grants are found by halving.

A plain prompt goes to ``/completions``. Messages go to ``/chat/completions``, so that the chat template is the server's
own: rendered here and sent as a prompt, most servers would put a second BOS in front of it. An opened last turn of the
assistant's is marked with ``continue_final_message``, which vLLM understands; a server that knows no such thing says so
instead of answering another question.

One connection per answer, several at a time (servers batch them, and read a repeated prompt once where they cache it),
each with the seed of its sample. A request that fails for a passing reason is repeated, from its beginning, with
growing pauses. When a server stays away, the answers that are complete are handed out first and
:class:`RunIncomplete` comes after them: started again, a run continues with what is missing.

What a server does not tell stays unknown: ids are empty and tokens 0 (it tells their number at the end of a stream,
which an answer that we cut never reaches; numbers of some answers alone would give false averages). Bytes that are no
UTF-8 reach us as U+FFFD.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from crosstok.errors import RunIncomplete, UserError
from crosstok.harness.generation.answers import AnswerBytes, Generation, StopReason, check_request, refusals
from crosstok.harness.openai.protocol import (
    FAILURES,
    Cancellation,
    Cancelled,
    Exchange,
    NoRoom,
    PassingFailure,
    ServerSource,
    events,
    reason,
)
from crosstok.tasks.task import Generate

logger = logging.getLogger(__name__)

_SEEDS = 1 << 31  # the smallest range that these servers have for seeds


class _Streamed(NamedTuple):
    """What came of one request."""

    answer: AnswerBytes
    stop_reason: StopReason


class ServerGenerator:
    """Answer :class:`Generate` requests through a server.

    ``parallel`` answers are asked for at a time. A request is tried ``attempts`` times, with pauses of ``pause_s``,
    twice that and so on (or as long as the server says); ``timeout_s`` is the longest silence on a connection. The key,
    where the server wants one, comes from the environment variable ``CROSSTOK_API_KEY``.
    """

    def __init__(
        self,
        source: ServerSource,
        *,
        parallel: int = 8,
        attempts: int = 5,
        pause_s: float = 1.0,
        timeout_s: float = 600.0,
    ) -> None:
        self.source = source
        self.retries = 0
        """Requests that had to be repeated."""
        self._parallel = parallel
        self._attempts = attempts
        self._pause_s = pause_s
        self._timeout_s = timeout_s

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        """Answer every request once per seed, in the order in which the answers are ready.

        Raises :class:`UserError` for requests that cannot be answered and for what the server refuses (an
        unknown model, a wrong key), :class:`RunIncomplete` where it stays away; either only after the answers that are
        complete.
        """
        for request in requests:
            check_request(request)
        cancel = Cancellation()
        asked = wanted = 0
        failure: UserError | RunIncomplete | None = None
        with ThreadPoolExecutor(self._parallel, "answer") as pool:
            futures = []
            for index, request in enumerate(requests):
                wanted += len(request.seeds)
                if not _is_text(request):
                    asked += len(request.seeds)
                    yield from refusals(index, request, "The prompt is no valid text: it holds half of a character.")
                    continue
                futures += [
                    pool.submit(self._answer, index, sample, request, cancel) for sample in range(len(request.seeds))
                ]
            try:
                for future in as_completed(futures):
                    try:
                        answer = future.result()
                    except Cancelled:
                        continue
                    except (UserError, RunIncomplete) as error:
                        failure = failure or error
                        cancel()
                        continue
                    asked += 1
                    yield answer
            finally:
                cancel()
                pool.shutdown(cancel_futures=True)
        if isinstance(failure, RunIncomplete):
            raise RunIncomplete(f"{failure.message} {asked} of {wanted} answers are there.", hint=failure.hint)
        if failure is not None:
            raise failure

    def _answer(self, index: int, sample: int, request: Generate, cancel: Cancellation) -> Generation:
        """Ask until there is an answer. A failure that is not for this request alone cancels the others too."""
        began = time.perf_counter()
        for attempt in range(1, self._attempts + 1):
            try:
                streamed = self._in_context(request, request.seeds[sample], cancel)
            except (*FAILURES, PassingFailure) as error:
                cancel.check()
                if attempt == self._attempts:
                    cancel()
                    raise RunIncomplete(
                        f"The server at {self.source.url} failed {attempt} times: {reason(error)}.",
                        hint="Start it again and repeat the command: it continues.",
                    ) from error
                self.retries += 1
                wait_s = getattr(error, "wait_s", 0.0) or self._pause_s * 2 ** (attempt - 1)
                logger.warning("%s does not answer (%s); trying again in %g s.", self.source.url, reason(error), wait_s)
                cancel.wait(wait_s)
                continue
            except UserError:
                cancel()
                raise
            break
        return _generation(index, sample, request, streamed, time.perf_counter() - began)

    def _in_context(self, request: Generate, seed: int, cancel: Cancellation) -> _Streamed:
        """Read one answer, with as many tokens as the server grants.

        An answer that ends by itself within fewer tokens than the budget is the whole answer. One that does not is
        asked for again until the most that the context holds are known.
        """
        granted, refused = 0, request.max_bytes + 1
        longest = _Streamed(AnswerBytes(request), "context_full")
        room = request.max_bytes
        while room > granted:
            try:
                streamed = self._stream(request, seed, room, cancel)
            except NoRoom:
                refused = room
            else:
                if streamed.stop_reason != "token_cap" or room == request.max_bytes:
                    return streamed
                granted, longest = room, _Streamed(streamed.answer, "context_full")
            room = (granted + refused) // 2
        return longest

    def _stream(self, request: Generate, seed: int, room: int, cancel: Cancellation) -> _Streamed:
        """Read one answer piece by piece, up to the byte that ends it."""
        answer = AnswerBytes(request)
        path = "/completions" if request.messages is None else "/chat/completions"
        with Exchange(self.source, self._timeout_s, cancel) as exchange:
            finish = ""
            for event in events(exchange.ask("POST", path, _body(self.source.model, request, seed, room))):
                cancel.check()
                if "error" in event:
                    raise PassingFailure(f"it broke off with {event['error']}")
                for choice in event.get("choices") or []:
                    finish = choice.get("finish_reason") or finish
                    text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                    answer.feed(text.encode(errors="replace"))
                    if answer.stop_reason is not None:
                        return _Streamed(answer, answer.stop_reason)
        if not finish:
            raise PassingFailure("the answer broke off")
        return _Streamed(answer, "token_cap" if finish == "length" else "end")


def _body(model: str, request: Generate, seed: int, room: int) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {"model": model, "max_tokens": room, "seed": seed % _SEEDS}
    body |= {"stream": True, "temperature": sampling.temperature}
    if not sampling.greedy:
        body["top_p"] = sampling.top_p
        if sampling.top_k:  # no field of OpenAI's; vLLM and llama.cpp know it, others refuse it
            body["top_k"] = sampling.top_k
    if request.messages is None:
        return body | {"prompt": request.prompt}
    body["messages"] = [dict(message) for message in request.messages]
    if request.messages[-1]["role"] == "assistant":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _generation(index: int, sample: int, request: Generate, streamed: _Streamed, seconds: float) -> Generation:
    text = "\n".join(message["content"] for message in request.messages or ()) or request.prompt
    data = bytes(streamed.answer.data)
    return Generation(
        index=index,
        sample=sample,
        data=data,
        text=data.decode(errors="replace"),
        tokens=0,
        steps=0,
        prompt_text=text,
        prompt_bytes=len(text.encode()),
        prompt_tokens=0,
        stop_reason=streamed.stop_reason,
        seconds=seconds,
    )


def _is_text(request: Generate) -> bool:
    contents = [request.prompt, *(message["content"] for message in request.messages or ())]
    return not any("\ud800" <= character <= "\udfff" for content in contents for character in content)
