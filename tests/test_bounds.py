"""Memory: what each part of the work takes, and that it does not grow with what it is done on.

Each is done in a process of its own, small and then several times as large; what is compared is the
most that it has held, beyond what it held before.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers import library, words

from l2m.information.pair_counts import LEAST, PART, fitting_part, free_memory

pytestmark = [
    pytest.mark.timeout(900),  # each loads torch twice or more
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="reads what a process holds in /proc"
    ),
]

BEGIN = """
import re, resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})

def held(what):  # MB: VmRSS now, VmHWM at most, VmSize with what is only mapped
    status = Path("/proc/self/status").read_text()
    return int(re.search(what + r":\\s+(\\d+) kB", status)[1]) / 1024

def begin():
    Path("/proc/self/clear_refs").write_text("5")  # what was held at most is forgotten
    return held("VmRSS")
"""


def most(code, **values):
    """MB that code holds at most, beyond what it holds where it says `before = begin()`."""
    code = BEGIN.format(tests=str(Path(__file__).parent)) + textwrap.dedent(code).format(**values)
    code += '\nprint("held", held("VmHWM") - before)'
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(re.search(r"held (\S+)$", done.stdout)[1])


def flat(code, sizes, bound, record_property, **values):
    """That of two sizes the larger one takes no more than the bound, MB, beyond the smaller."""
    small, large = (most(code, size=size, **values) for size in sizes)
    record_property("held", f"{small:.0f} and {large:.0f} MB")
    assert large - small < bound, f"{small:.0f} MB, then {large:.0f} MB"


def test_keys_take_a_share_of_the_memory_that_there_is():
    assert [fitting_part(16, free) for free in (0, 1e9, 1e12)] == [LEAST, 31_250_000, PART]
    assert fitting_part(17, 1e9) == fitting_part(16, 1e9) // 2
    assert 0 < free_memory() < 1e14


COUNT = """
from l2m.information.two_point import two_point_mi
tokens = np.memmap({file!r}, np.uint16, mode="r", shape=({size},))
documents = np.array_split(tokens, 50)
two_point_mi([document[:1000] for document in documents], [1], null=None)
limit = int((held("VmSize") + {limit}) * 2**20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = begin()
print(two_point_mi(documents, [1, 16], null=None).to_json(double_precision=15))
"""


@pytest.mark.slow
def test_counting_keeps_to_the_memory_that_there_is(tmp_path):
    """Forty million tokens, whose keys are 320 MB for two distances at once, within 260 MB."""
    size, rng, found = 40_000_000, np.random.default_rng(0), set()
    with open(tmp_path / "tokens", "wb") as file:
        for _ in range(0, size, 1_000_000):
            file.write((3 * 16_385 ** rng.random(1_000_000) - 3).astype(np.uint16).tobytes())
    for limit in (260, 8000):
        code = BEGIN.format(tests="") + COUNT.format(
            file=str(tmp_path / "tokens"), size=size, limit=limit
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1  # the same to the last digit, whatever the parts


SCORE = """
from helpers import tiny
from l2m.language_models.scoring import score
model, options = tiny("llama"), {{"progress": False, "batch_size": 8}}
score(model, np.zeros((8, 64), int), folder={folder!r} + "0-{size}", **options)
windows = np.random.default_rng(0).integers(0, 97, ({size}, 64))
before = begin()
score(model, windows, folder={folder!r} + "{size}", **options)
"""


@pytest.mark.slow
def test_scoring_takes_a_batch_and_what_it_returns(tmp_path, record_property):
    """Ten times the windows: 3 MB more are returned, and read from the shards."""
    flat(SCORE, (200, 2000), 25, record_property, folder=str(tmp_path / "scores"))


REPEAT = """
from helpers import tiny, windows
from l2m.language_models.scoring import score
model = tiny("llama")
for i in range({size}):
    if i == 20:
        before = begin()
    score(model, windows(16, 32, seed=i), progress=False)
"""


@pytest.mark.slow
def test_two_hundred_scorings_take_what_one_takes():
    assert most(REPEAT, size=200) < 15


TRAIN = """
from test_nothing_lost import Noise
from l2m.training.loop import Training, train
from l2m.training.networks import build_model
def run(steps, folder):
    model = build_model("gpt2", vocab_size=7, length=6, layers=1, width=8)
    how = Training(steps, 2, precision="fp32", save_every=steps // 4, log_every=1)
    train(model, Noise(), how, folder, "cpu", progress=False)
run(8, {folder!r} + "0-{size}")
before = begin()
run({size}, {folder!r} + "{size}")
"""


@pytest.mark.slow
def test_training_takes_the_same_at_every_step(tmp_path, record_property):
    flat(TRAIN, (80, 800), 10, record_property, folder=str(tmp_path / "run"))


LOAD = """
import l2m, torch, transformers
from transformers import AutoModelForCausalLM
from l2m.language_models.models import load_model
load_model({folder!r} + "0", "float32")
before = begin()
load_model({folder!r}, {dtype!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "share"), [("float32", 1.4), ("bfloat16", 2.8)])
def test_loading_takes_the_weights_and_their_file(tmp_path, dtype, share):
    """The file is mapped: of another dtype the weights are there once more, half as large."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6}
    for end, vocab_size in (("", 32_000), ("0", 10)):
        config = LlamaConfig(vocab_size=vocab_size, num_attention_heads=8, **sizes)
        LlamaForCausalLM(config).save_pretrained(tmp_path / f"model{end}")
    file = (tmp_path / "model/model.safetensors").stat().st_size / 2**20
    assert most(LOAD, folder=str(tmp_path / "model"), dtype=dtype) < share * file + 20


TOKENS = """
import os
os.environ["L2M_CACHE"] = {folder!r} + "/cache"
from l2m.language_models.models import load_tokenizer
from l2m.text import token_files
from l2m.text.corpora import token_file
token_files.LETTERS = 1 << 18
tokenizer = load_tokenizer({folder!r} + "/tokenizer")
token_file([{folder!r} + "/0"], tokenizer)
before = begin()
assert len(token_file([{folder!r} + "/{size}"], tokenizer).books) == {size}
"""


@pytest.mark.slow
def test_a_corpus_need_not_fit_into_memory(tmp_path, record_property):
    """Eighty books instead of sixteen; a book has 2 MB of letters, tokens and where they are."""
    words(tmp_path / "tokenizer")
    library(tmp_path / "0", books=2, paragraphs=10)
    for books in (16, 80):
        library(tmp_path / str(books), books, paragraphs=600)
    flat(TOKENS, (16, 80), 30, record_property, folder=str(tmp_path))
