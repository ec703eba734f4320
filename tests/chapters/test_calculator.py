"""The scripts of the pages: their data, and their arithmetic against the library's."""

import json
import re
import shutil
import subprocess
from dataclasses import astuple

import numpy as np
import pytest

from l2m.chapters import calculator
from l2m.chapters.calculator import CHECKED, PATH, described, models, scripts, table
from l2m.files import ROOT
from l2m.information.bipartite import bipartite_mi
from l2m.information.scaling import PowerLaw, fit_power_law
from l2m.memory.architectures import architectures
from l2m.memory.blocks import Blocks
from l2m.memory.history_state import HistoryState, history_state_dim
from l2m.memory.l2m_condition import Bound, growth, reach, required_dim
from l2m.memory.l2m_condition import satisfies_l2m as satisfies
from l2m.memory.layer_memories import Memory
from l2m.results import provenance, recorded
from l2m.sources import SantaFeSource
from l2m.training.networks import build_model

PAGE = ROOT / "book" / "calculator.md"
STATIC = PATH.parent
LAWS = [(2.27, 0.76), (3.26, 0.71), (4.3881121, 0.44821282), (1.0, 1.0), (20.0, 0.0)]
NATS = [0.06, 16 * np.log(2), 0.5]
LENGTHS = [2, 3, 4096, 65_537, 10**6, 10**9]
M = 50_000
OTHER = [(2, 1), (2, 16), (3, 4)]  # bases of blocks, and windows


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.name)
def test_data_are_those_of_the_library(path):
    assert path.read_text(encoding="utf-8") == scripts()[path], "run `l2m build`"


def test_values_by_which_the_page_checks_itself():
    for fact, model in zip(architectures(), models(), strict=True):
        assert model["name"] == fact["name"]
        assert model["dims"] == [[n, history_state_dim(fact["config"], n)] for n in CHECKED]
        assert max(dim for _, dim in model["dims"]) < 2**53  # exact in JavaScript


def test_page_is_self_contained_and_labelled():
    page = PAGE.read_text(encoding="utf-8")
    for link in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert link.startswith("../_static/") and (PAGE.parent / link[3:]).exists()
    fields = re.findall(r'<(?:input|select) id="([^"]+)"', page)
    assert fields and set(fields) == set(re.findall(r'<label for="([^"]+)"', page))
    assert "<noscript>" in page and 'role="status"' in page


def node(expression, **given):
    """Evaluate JavaScript, in which the pages' scripts and `given` have their names."""
    if not shutil.which("node"):
        pytest.skip("needs node, to run the pages' JavaScript")
    program = """
        const [folder, given] = process.argv.slice(1);
        const files = ["history_state", "history_state_models", "widgets/scaling", "widgets/data"];
        Object.assign(globalThis, ...files.map((name) => require(`${folder}/${name}.js`)));
        Object.assign(globalThis, JSON.parse(given));
        const states = HISTORY_STATE_MODELS.map(({ memories }) => memories);
        const found = eval(process.argv[3]);
        console.log(JSON.stringify(found, (_, x) => (Math.abs(x) === Infinity ? `${x}` : x)));
    """
    run = ["node", "-e", program, str(STATIC), json.dumps(given), expression]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_growth_and_verdicts_are_those_of_the_library():
    found = node(
        """states.map((state) => ({
          dims: lengths.map((L) => dim(state, L)),
          growth: growth(state),
          verdicts: laws.map(([, beta]) => satisfies(state, beta)),
        }))""",
        lengths=[0, 1, *LENGTHS],
        laws=LAWS,
    )
    for fact, page in zip(architectures(), found, strict=True):
        config, law = fact["config"], growth(fact["config"])
        assert page["dims"] == [history_state_dim(config, n) for n in [0, 1, *LENGTHS]]
        rate = pytest.approx(law.rate)
        assert page["growth"] == {"law": law.law, "exponent": law.exponent, "rate": rate}
        assert page["verdicts"] == [satisfies(config, beta).single for _, beta in LAWS]


POWERS = [(s, c, b, w) for s in (0, 0.3, 0.5, 0.79, 1) for c in (0.5, 1, 2.5, 6) for b, w in OTHER]


def test_power_attention_is_that_of_the_library():
    """Alone, and beside memories that grow more slowly, or faster."""
    blocks = [Memory("slots", 7, "power", Blocks(*power), layers=3) for power in POWERS]
    beside = [Memory("state", 5, "state"), Memory("states", 5, "levels"), Memory("tokens", 5)]
    models = [(one, *some) for one in blocks for some in [(), *((other,) for other in beside)]]
    page = node(
        "models.map((x) => [lengths.map((L) => dim(x, L)), growth(x), reach(x)])",
        models=[list(map(astuple, model)) for model in models],
        lengths=[0, 1, 1023, *LENGTHS],
    )
    for model, (dims, grows, end) in zip(models, page, strict=True):
        state = HistoryState(model)
        law = growth(state)
        assert dims == [state.dim(n) for n in [0, 1, 1023, *LENGTHS]]
        assert (grows["law"], grows["exponent"]) == (law.law, law.exponent)
        assert grows["rate"] == pytest.approx(law.rate) and end is None


def test_what_is_needed_and_how_far_it_goes_are_those_of_the_library_to_the_last_digit():
    """As chapter 5 prints them: whole numbers, and powers of ten with a digit behind the point."""
    found = node(
        """nats.map((C) => laws.map(([amplitude, beta]) => ({
          needed: lengths.map((L) => required(L, { amplitude, beta }, C, M)),
          reach: states.map((state) => reach(state, { amplitude, beta }, C, M)),
        })))""",
        nats=NATS,
        laws=LAWS,
        lengths=LENGTHS,
        M=M,
    )
    ends = 0
    for C, pages in zip(NATS, found, strict=True):
        for (amplitude, beta), page in zip(LAWS, pages, strict=True):
            law = PowerLaw(amplitude, beta, 0.0, (), (), ())
            about = {"bound": Bound(C), "vocab_size": M}
            needed = required_dim(np.array(LENGTHS), law, **about)
            assert [f"{x:.9e}" for x in page["needed"]] == [f"{x:.9e}" for x in needed]
            for fact, there in zip(architectures(), page["reach"], strict=True):
                here = reach(fact["config"], law, **about)
                assert float(there) == pytest.approx(float(here), rel=1e-12)
                if here < 10**12:  # beyond, the last digit hangs on the rounding of a power
                    assert there == here
                ends += np.isfinite(here)
    assert ends > 100


def test_the_law_of_the_figure_is_that_of_the_library():
    for windows, name in calculator.CURVES.items():
        terms = recorded(name, provenance(name)["params"])
        grams = recorded("03_bipartite_mi/ngrams", provenance("03_bipartite_mi/ngrams")["params"])
        for weight in (0.0, 0.35, 0.8):
            how = {"bigram_entropy": grams["entropy"].iloc[-1], "bigram_weight": weight}
            curve = bipartite_mi(terms, ratio=2, **how)
            seen = curve[curve["length"] >= 32]
            law = fit_power_law(seen["length"], seen["mi"])
            page = node(
                """const rows = LAW_CURVES[windows], late = rows.filter((row) => row.length >= 32);
                const lengths = late.map((row) => row.length);
                const nats = late.map((row) => corrected(row, weight)[0]);
                [rows.map((row) => corrected(row, weight)), fitPowerLaw(lengths, nats)]""",
                windows=windows,
                weight=weight,
            )
            np.testing.assert_allclose(page[0], curve[["mi", "stderr"]], rtol=1e-6)
            assert page[1]["beta"] == pytest.approx(law.exponent, abs=1e-6)
            assert page[1]["amplitude"] == pytest.approx(law.amplitude, rel=1e-6)


def test_a_law_that_is_not_determined_is_none():
    cases = [[[4, 8], [1, 2]], [[4, 8, 16], [1, 0, 2]], [[4, 8, 16], [1, -1, 2]]]
    assert node("cases.map(([x, y]) => fitPowerLaw(x, y))", cases=cases) == [None] * 3


@pytest.mark.parametrize(("beta", "decay"), [(0.4, 0.9), (0.8, 0.9), (0.9, 0.1), (0.2, 1.8)])
def test_the_source_of_the_figure_is_that_of_the_library(beta, decay):
    distances = [1, 2, 16, 300, 1024]
    found = node(
        """const source = santaFe(facts, beta, decay);
        [twoPoint(source, distances), bipartite(source, distances.map((d) => 2 * d))]""",
        facts=300,
        beta=beta,
        decay=decay,
        distances=distances,
    )
    source = SantaFeSource(300, beta, decay)
    np.testing.assert_allclose(found[0], [source.two_point_mi(d) for d in distances], rtol=1e-9)
    known = [source.bipartite_mi(d, 2 * d) for d in distances]
    np.testing.assert_allclose(found[1], known, rtol=1e-6)


def test_the_runs_of_the_figure_differ_in_what_can_be_chosen():
    runs = calculator.runs()
    chosen = [(run["kind"], run["length"], run["s"]) for run in runs]
    assert len(set(chosen)) == len(chosen) > 25
    assert ("sub-volume", 1024, 0.5) in chosen and len({run["copies"] for run in runs}) == 1


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


def test_a_model_of_power_attention_is_described(tmp_path):
    config = build_model("power", vocab_size=100, layers=2, width=16, s=0.5).config
    config.save_pretrained(tmp_path)
    said = described(str(tmp_path), 0.75, 1000).splitlines()
    assert said[0].endswith(f"keeps {history_state_dim(config, 500):,} scalars after 500 tokens:")
    assert said[-2] == f"It grows to {growth(config).rate:,.0f} × L^0.5 scalars at most."


def test_what_is_no_config_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match="config.json is damaged, no JSON object"):
        described(str(path), 0.75, 1000)
    with pytest.raises(OSError, match="missing.json"):
        described("missing.json", 0.75, 1000)
