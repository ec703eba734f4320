"""Nothing that is read, fetched or stored can run code: the tree has no call that would let it."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "read_pickle", "to_pickle", "unsafe_load", "full_load"}
WORDS = {"trust_remote_code", "allow_pickle", "use_pickle"}


def faults(code: str) -> set[str]:
    """What in some code could run what is in a file."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found |= {name for name in names if name.split(".")[0] in MODULES}
        if isinstance(node, ast.Call):
            *owner, name = ast.unparse(node.func).rsplit(".", 1)
            own = {word.arg: ast.unparse(word.value) for word in node.keywords}
            found |= {word for word in WORDS & own.keys() if own[word] != "False"}
            if name in CALLS and owner in ([], ["builtins"], ["pd"], ["yaml"]):
                found.add(name)
            if owner == ["yaml"] and name == "load" and own.get("Loader") != "yaml.SafeLoader":
                found.add("yaml.load")
            if owner == ["torch"] and name == "load" and own.get("weights_only") != "True":
                found.add("torch.load")
        if isinstance(node, ast.Constant) and node.value in WORDS:  # of options in a dict
            found.add(node.value)
    return found


def sources():
    for folder in ("l2m", "notebooks", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        for number, cell in enumerate(code):
            if not cell.lstrip().startswith(("%", "!")):
                yield f"{path.name}, code cell {number}", cell


def test_no_data_can_run_code():
    found = {name: faults(code) for name, code in sources()}
    assert len(found) > 100
    assert {name: fault for name, fault in found.items() if fault} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import dill.source",
        "np.load(x, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)",
        "options = {'trust_remote_code': True}",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "yaml.load(x)",
        "pd.read_pickle(x)",
        "eval(text)",
    ],
)
def test_what_could_is_found(code):
    assert faults(code)


@pytest.mark.parametrize(
    "code",
    ["torch.load(x, weights_only=True)", "model.eval()", "re.compile(x)", "yaml.safe_load(x)"],
)
def test_what_could_not_is_left_alone(code):
    assert not faults(code)
