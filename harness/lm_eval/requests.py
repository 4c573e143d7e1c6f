"""Conversion of lm-eval's requests: continuations grouped by context, and prompts with budgets in bytes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from lm_eval.api.instance import Instance

from crosstok.fingerprint import fingerprint
from crosstok.harness.generation.answers import Generation
from crosstok.tasks.task import Continuations, Generate, Sampling

BYTES_PER_TOKEN = 4  # lm-eval limits answers in tokens; this is the length of an English token, for every tokenizer
_MAX_TOKENS = 256  # lm-eval's default


class Conversation(str):
    """A chat prompt: a string of the turns' contents that carries the turns for the model's chat template."""

    __slots__ = ("turns",)
    turns: tuple[Mapping[str, str], ...]

    def __new__(cls, turns: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> Self:  # noqa: ARG004
        """Store ``turns``; the model continues a last turn of the assistant (no generation prompt)."""
        made = super().__new__(cls, "\n".join(turn["content"] for turn in turns))
        made.turns = tuple(turns)
        return made


def generation(instance: Instance) -> Generate:
    """Return the request of a ``generate_until`` instance, with its limit in tokens converted to bytes."""
    context, settings = instance.args[:2]
    until = settings.get("until") or []
    room = next((settings[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in settings), None)
    sampled = bool(settings.get("do_sample", float(settings.get("temperature") or 0) > 0))
    sampling = Sampling(
        temperature=float(settings.get("temperature") or 1.0) if sampled else 0.0,
        top_p=float(settings.get("top_p") or 1.0),
        top_k=int(settings.get("top_k") or 0),
    )
    seeds = tuple(
        int(fingerprint({"task": instance.task_name, "document": instance.doc_id, "sample": number})[:8], 16)
        for number in range(instance.repeats or 1)
    )
    turns = context.turns if isinstance(context, Conversation) else None
    return Generate(
        prompt="" if turns else context,
        messages=turns,
        stops=tuple([until] if isinstance(until, str) else until),
        max_bytes=BYTES_PER_TOKEN * int(room or _MAX_TOKENS),
        sampling=sampling,
        seeds=seeds if sampled else (0,),
    )


def by_context(
    pairs: Sequence[tuple[str, str]], unconditional: str | None = None
) -> tuple[list[Continuations], list[list[int]]]:
    """Return one request per context for ``pairs`` of context and continuation, and the pairs of each request."""
    places: dict[str, list[int]] = {}
    for number, (context, _) in enumerate(pairs):
        places.setdefault(context, []).append(number)
    requests = [
        Continuations(context, tuple(pairs[number][1] for number in numbers), unconditional)
        for context, numbers in places.items()
    ]
    return requests, list(places.values())


def gathered(answers: Iterator[Generation], counts: Sequence[int]) -> Iterator[tuple[int, list[Generation]]]:
    """Yield (index, answers in the order of their seeds) of each request when all of its answers are complete."""
    open_requests: dict[int, dict[int, Generation]] = {}
    for answer in answers:
        found = open_requests.setdefault(answer.index, {})
        found[answer.sample] = answer
        if len(found) == counts[answer.index]:
            yield answer.index, [found[number] for number in sorted(open_requests.pop(answer.index))]
