"""The calculator page: its data, and its arithmetic against the library's."""

import json
import re
import shutil
import subprocess

import pytest

from l2m.chapters.calculator import CHECKED, PATH, described, models, script, table
from l2m.files import ROOT
from l2m.memory.architectures import architectures
from l2m.memory.history_state import history_state_dim
from l2m.memory.l2m_condition import Bound, growth, required_dim
from l2m.memory.l2m_condition import satisfies_l2m as satisfies

PAGE = ROOT / "book" / "calculator.md"
LAWS = [(2.27, 0.76), (3.26, 0.71), (5.0, 0.0)]


def test_data_are_those_of_the_library():
    assert PATH.read_text(encoding="utf-8") == script(), "run `l2m build`"


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


def test_in_text_models_are_those_of_the_library():
    lines = table(0.75, 1000).splitlines()
    assert lines[0] == "After 500 tokens, and the L²M condition for I_BP ~ L^0.75:"
    assert lines[2].split() == ["model", "scalars", "kept", "growth", "L²M", "condition"]
    for fact, line in zip(architectures(), lines[3:], strict=True):
        name, dim, law, met = re.split(r" {2,}", line)
        assert name == fact["name"] and law == growth(fact["config"]).law
        assert int(dim.replace(",", "")) == history_state_dim(fact["config"], 500)
        assert (met == "met") == satisfies(fact["config"], 0.75).single


@pytest.mark.parametrize("as_what", ["name", "id", "file", "folder"])
def test_one_model_is_described(tmp_path, as_what):
    fact = next(fact for fact in architectures() if fact["name"] == "Mamba 130M")
    (tmp_path / "config.json").write_text(json.dumps(fact["config"]))
    given = {
        "name": "mamba 130m",
        "id": fact["id"],
        "file": str(tmp_path / "config.json"),
        "folder": str(tmp_path),
    }[as_what]
    said = described(given, 0.75, 1000).splitlines()
    dim = f"{history_state_dim(fact['config'], 500):,} scalars"
    assert said[0] == f"{given} keeps {dim} after 500 tokens:"
    assert said[-2] == f"It grows to {dim} at most."
    assert said[-1].startswith("The L²M condition for I_BP ~ L^0.75 is not met: its state never")


def test_what_is_no_config_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match="config.json is damaged, no JSON object"):
        described(str(path), 0.75, 1000)
    with pytest.raises(OSError, match="missing.json"):
        described("missing.json", 0.75, 1000)
