"""The calculator page: its data, and its arithmetic against the library's."""

import json
import re
import shutil
import subprocess

import pytest

from l2m.chapters.calculator import CHECKED, PATH, models, script
from l2m.memory.history_state import Bound, architectures, growth, history_state_dim, required_dim
from l2m.memory.history_state import satisfies_l2m as satisfies
from l2m.results import ROOT

PAGE = ROOT / "book" / "calculator.md"
LAWS = [(2.27, 0.76), (3.26, 0.71), (5.0, 0.0)]


def test_data_are_those_of_the_library():
    assert PATH.read_text(encoding="utf-8") == script(), "run `python -m l2m.chapters.calculator`"


def test_values_by_which_the_page_checks_itself():
    for fact, model in zip(architectures(), models(), strict=True):
        assert model["name"] == fact["name"]
        assert model["dims"] == [[n, history_state_dim(fact["config"], n)] for n in CHECKED]
        assert max(dim for _, dim in model["dims"]) < 2**53  # exact in JavaScript


def test_page_is_self_contained_and_labelled():
    page = PAGE.read_text(encoding="utf-8")
    assert "INFORMATION_LAWS" in PATH.read_text(encoding="utf-8")
    for link in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert link.startswith("../_static/") and (PATH.parent / link.split("/")[-1]).exists()
    fields = re.findall(r'<(?:input|select) id="([^"]+)"', page)
    assert fields and set(fields) == set(re.findall(r'<label for="([^"]+)"', page))
    assert "<noscript>" in page and 'aria-live="polite"' in page


NODE = """
const H = require(process.argv[1]), models = require(process.argv[2]);
const {lengths, laws, C, M} = JSON.parse(process.argv[3]);
console.log(JSON.stringify(models.map(({memories}) => ({
  dims: lengths.map((L) => H.dim(memories, L)),
  growth: H.growth(memories),
  verdicts: laws.map(([, beta]) => H.satisfies(memories, beta)),
  required: laws.map(([amplitude, beta]) => H.required(1e6, {amplitude, beta}, C, M)),
  reach: H.reach(memories, {amplitude: laws[0][0], beta: laws[0][1]}, C, M),
}))));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs node, to run the page's JavaScript")
def test_arithmetic_is_that_of_the_library():
    lengths, C, M = [0, 1, 2, 3, 4095, 65_536, 10**9], 0.06, 50_000
    given = json.dumps({"lengths": lengths, "laws": LAWS, "C": C, "M": M})
    core = PATH.with_name("history_state.js")
    run = ["node", "-e", NODE, str(core), str(PATH), given]
    found = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    for fact, page in zip(architectures(), found, strict=True):
        config, law = fact["config"], growth(fact["config"])
        assert page["dims"] == [history_state_dim(config, n) for n in lengths]
        assert page["growth"] == {
            "law": law.law,
            "exponent": law.exponent,
            "rate": pytest.approx(law.rate),
        }
        assert page["verdicts"] == [satisfies(config, beta).single for _, beta in LAWS]
        for (A, beta), needed in zip(LAWS, page["required"], strict=True):
            law = lambda L, A=A, beta=beta: A * L**beta  # noqa: E731
            expected = required_dim(10.0**6, law, bound=Bound(C), vocab_size=M)
            assert needed == pytest.approx(expected)
        if page["reach"]:  # the state suffices just before, and no longer at the length found
            law = lambda L: LAWS[0][0] * L ** LAWS[0][1]  # noqa: E731
            at = int(page["reach"])
            lacks = [
                history_state_dim(config, L // 2)
                < required_dim(float(L), law, bound=Bound(C), vocab_size=M)
                for L in (int(at * (1 - 1e-6)), at)
            ]
            assert lacks == [False, True]
