"""Generation through OpenAI-compatible servers (vLLM, llama.cpp, ``transformers serve``), with byte-exact stops.

Servers differ in their handling of stop strings: some drop the stop, some keep it, some find it only at token
boundaries, most accept at most four, and none has a budget in bytes. Requests therefore contain no stops. The answer
is streamed through the same :class:`AnswerBytes` as an answer of the local engine, and the connection is closed at the
byte that ends it, which makes these servers stop generating. ``max_tokens`` equals the byte budget, since no token is
shorter than a byte. If a server rejects that many tokens because of its context, the largest number that it accepts
is found by bisection.

A plain prompt goes to ``/completions``. Messages go to ``/chat/completions``, so that the server applies its own chat
template: if the template were rendered here and sent as a prompt, most servers would add a second BOS. A final
assistant message to be continued is marked with ``continue_final_message``, which vLLM supports; servers that do not
support it return an error.

Each answer uses its own connection, several at a time (servers batch them and may cache the shared prompt), with the
seed of its sample. A request that fails for a transient reason is repeated from the beginning, with exponential
backoff. If the server stays unavailable, the completed answers are yielded first and then :class:`RunIncomplete` is
raised; a restarted run continues with the missing answers.

Facts that the server does not report stay unknown: ``ids`` is empty and ``tokens`` is 0. (Servers report token counts
at the end of a stream, which a cut answer never reaches, and averages over the remaining answers would be biased.)
Bytes that are not valid UTF-8 arrive as U+FFFD.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from crosstok.errors import RunIncomplete, UserError
from crosstok.harness.generation.answers import AnswerBytes, Generation, StopReason, check_request, refusals
from crosstok.harness.openai.protocol import (
    CONNECTION_ERRORS,
    Cancellation,
    Cancelled,
    Connection,
    ContextExceeded,
    TransientError,
    events,
    reason,
)
from crosstok.model_source import ModelSource
from crosstok.tasks.task import Generate

logger = logging.getLogger(__name__)

_SEED_RANGE = 1 << 31  # the smallest range of seeds among these servers


class _Streamed(NamedTuple):
    """Result of one streamed request."""

    answer: AnswerBytes
    stop_reason: StopReason


class ServerGenerator:
    """Answers :class:`Generate` requests through a server.

    ``parallel`` requests run at a time. Each is attempted ``attempts`` times, with pauses that start at ``pause_s``
    seconds and double (or as long as the server asks); ``timeout_s`` is the longest silence on a connection, in
    seconds. The environment variable ``CROSSTOK_API_KEY`` holds the API key, if the server needs one.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        parallel: int = 8,
        attempts: int = 5,
        pause_s: float = 1.0,
        timeout_s: float = 600.0,
    ) -> None:
        self.source = source
        self.retries = 0
        """Number of repeated requests."""
        self._parallel = parallel
        self._attempts = attempts
        self._pause_s = pause_s
        self._timeout_s = timeout_s

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        """Answer every request once per seed; yields answers in order of completion.

        Raises :class:`UserError` for invalid requests and for requests that the server rejects (unknown model, wrong
        key), :class:`RunIncomplete` if the server is unavailable. The last two are raised after all completed answers.
        """
        for request in requests:
            check_request(request)
        cancel = Cancellation()
        answered = wanted = 0
        failure: UserError | RunIncomplete | None = None
        with ThreadPoolExecutor(self._parallel, "answer") as pool:
            futures = []
            for index, request in enumerate(requests):
                wanted += len(request.seeds)
                if not _is_text(request):
                    answered += len(request.seeds)
                    yield from refusals(index, request, "The prompt is not valid text: it contains a lone surrogate.")
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
                    answered += 1
                    yield answer
            finally:
                cancel()
                pool.shutdown(cancel_futures=True)
        if isinstance(failure, RunIncomplete):
            raise RunIncomplete(f"{failure.message} {answered} of {wanted} answers are complete.", hint=failure.hint)
        if failure is not None:
            raise failure

    def _answer(self, index: int, sample: int, request: Generate, cancel: Cancellation) -> Generation:
        """Return one answer, with retries; a failure that affects all requests cancels the others."""
        began = time.perf_counter()
        for attempt in range(1, self._attempts + 1):
            try:
                streamed = self._answer_within_context(request, request.seeds[sample], cancel)
            except (*CONNECTION_ERRORS, TransientError) as error:
                cancel.check()
                if attempt == self._attempts:
                    cancel()
                    raise RunIncomplete(
                        f"The server at {self.source.location} failed {attempt} times: {reason(error)}.",
                        hint="Restart the server and repeat the command to continue.",
                    ) from error
                self.retries += 1
                wait_s = getattr(error, "wait_s", 0.0) or self._pause_s * 2 ** (attempt - 1)
                logger.warning(
                    "%s does not answer (%s); retrying in %g s.", self.source.location, reason(error), wait_s
                )
                cancel.wait(wait_s)
                continue
            except UserError:
                cancel()
                raise
            break
        return _generation(index, sample, request, streamed, time.perf_counter() - began)

    def _answer_within_context(self, request: Generate, seed: int, cancel: Cancellation) -> _Streamed:
        """Return one answer with the largest token budget that the server accepts, found by bisection.

        An answer that ends within a smaller budget is complete. Otherwise it is requested again with a larger budget,
        until the limit of the context is known.
        """
        granted, refused = 0, request.max_bytes + 1
        longest = _Streamed(AnswerBytes(request), "context_full")
        room = request.max_bytes
        while room > granted:
            try:
                streamed = self._stream(request, seed, room, cancel)
            except ContextExceeded:
                refused = room
            else:
                if streamed.stop_reason != "token_cap" or room == request.max_bytes:
                    return streamed
                granted, longest = room, _Streamed(streamed.answer, "context_full")
            room = (granted + refused) // 2
        return longest

    def _stream(self, request: Generate, seed: int, room: int, cancel: Cancellation) -> _Streamed:
        """Stream one answer up to the byte that ends it. Raises :class:`TransientError` if the stream breaks."""
        answer = AnswerBytes(request)
        path = "/completions" if request.messages is None else "/chat/completions"
        with Connection(self.source, self._timeout_s, cancel) as connection:
            finish = ""
            for event in events(connection.request("POST", path, _body(self.source.served, request, seed, room))):
                cancel.check()
                if "error" in event:
                    raise TransientError(f"the stream ended with an error: {event['error']}")
                for choice in event.get("choices") or []:
                    finish = choice.get("finish_reason") or finish
                    text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                    answer.feed(text.encode(errors="replace"))
                    if answer.stop_reason is not None:
                        return _Streamed(answer, answer.stop_reason)
        if not finish:
            raise TransientError("the stream ended early")
        return _Streamed(answer, "token_cap" if finish == "length" else "end")


def _body(model: str, request: Generate, seed: int, room: int) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {"model": model, "max_tokens": room, "seed": seed % _SEED_RANGE}
    body |= {"stream": True, "temperature": sampling.temperature}
    if not sampling.greedy:
        body["top_p"] = sampling.top_p
        if sampling.top_k:  # not in OpenAI's API; vLLM and llama.cpp support it, others reject it
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
