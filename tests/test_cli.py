"""The command line: what it passes on, one sentence for every mistake, and help for a newcomer."""

import inspect
import os
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import l2m
from l2m import cli
from l2m.cli import UNFINISHED, main
from l2m.language_models.models import load_tokenizer

COMMANDS = ["run", "build", "check", "measure", "train", "models"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("L2M_RECORD", "")  # restored afterwards, whatever a command sets
    monkeypatch.delenv("L2M_RECORD")
    monkeypatch.setenv("COLUMNS", "80")


def raising(error):
    def function(*_args, **_options):
        raise error

    return function


# help


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_commands_are_listed_a_line_each(capsys, arguments):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        [line] = [line for line in out.splitlines() if line.startswith(f"  {command} ")]
        assert line.endswith(".") and not line.endswith("...")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example: l2m {command}" in " ".join(out.split())
    assert "until" not in out  # what commands pass to one another


def test_help_is_at_hand():
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "l2m", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage: l2m" in done.stdout
    assert time.monotonic() - start < 5  # under a second where nothing else runs
    heavy = ("torch", "pandas", "numpy", "papermill", "transformers")
    code = f"import l2m.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"l2m {l2m.__version__}\n"


# mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum"], "No such command 'rum'. Did you mean 'run'? (see `l2m --help`)."),
        (["run", "--jobs", "0"], "'--jobs'"),
        (["run", "--job", "2"], "--jobs"),
        (["run", "-p"], "requires an argument"),
        (["run", "-p", "windows"], "-p takes a name and a value, such as `-p seed 1`"),
        (["measure"], "Missing argument 'name' (see `l2m measure --help`)."),
        (
            ["measure", "x", "--what", "all"],
            "'all' is not one of 'information', 'past', 'missed', '",
        ),
        (["measure", "x", "--seed", "-1"], "'--seed'"),
        (["measure", "x", "--windows", "many"], "'--windows'"),
        (["measure", "x", "--dtype", "int8"], "'--dtype'"),
        (["measure", "x", "--bos", "-2"], "'--bos'"),
        (["measure", "x", "--ratio", "1"], "'--ratio'"),
        (["measure", "x", "--ratio", "1025"], "--ratio is from 2 to 1024, not 1025."),
        (["measure", "x", "--ratio", "9" * 20], "--ratio is from 2 to 1024"),
        (
            ["measure", "x", "--length", "8", "--largest-split", "5"],
            "--largest-split is from 2 to 4",
        ),
        (["measure", "x", "--largest-split", "1"], "--largest-split is from 2 to 1024"),
        (["measure", "x", "--partners", "0"], "'--partners'"),
        (["measure", "x", "--length", "1"], "--length is at least 4, not 1."),
        (["measure", "x", "--what", "missed", "--length", "1"], "--length is at least 4, not 1."),
        (
            ["measure", "x", "--what", "cache", "--budgets", "all"],
            "--budgets is numbers of entries",
        ),
        (
            ["measure", "x", "--budgets", "4"],
            "--what information takes no --budgets: leave it out.",
        ),
        (["measure", "x", "--what", "past", "--length", "1"], "--length is at least 2, not 1."),
        (["models", "--length", "1"], "'--length'"),
        *(
            (["measure", "x", *empty], "an argument is empty: leave it out, or say what it is")
            for empty in (["--server", ""], ["--corpus="], ["--model", ""], ["--warm", ""], [""])
        ),
        (["train", "gaussian", "--grid", "smoke", "--run", ""], "an argument is empty"),
        (["run", ""], "an argument is empty"),
        (["run", "--output-dir", ""], "an argument is empty"),
        (["models", ""], "an argument is empty"),
        *(
            (["measure", "x", "--warm", warm], "--warm is numbers of tokens, such as 4,16,64")
            for warm in ("0", "4,,4", "-1", "1.5", "٣", "4\n", "9" * 5000)
        ),
        (["measure", "x" * 300], "of letters, digits, _ and -, at most 99 each"),
        (["measure", "../x"], "of letters, digits, _ and -"),
        (["measure", "x", "--corpus", "kvj"], "pg19, wikipedia. Did you mean 'kjv'?"),
        (["train", "books", "--grid", "smok"], "Did you mean 'smoke'?"),
        (["train", "books", "--grid", "smoke", "--deadline", "nan"], "'--deadline'"),
        (["train", "novels", "--grid", "smoke"], "'novels' is not one of 'gaussian', 'books'"),
        (["train", "books"], "Missing option '--grid'"),
        (["models", "--beta", "2"], "'--beta'"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, arguments, says):
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and says in error
    assert error.startswith("l2m: ") and error[-2:] in (".\n", "?\n") and error.count("\n") == 1
    assert "Usage" not in error and "Value error" not in error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("a window is longer\n  than the book."), "a window is longer than the book."),
        (FileNotFoundError(2, "No such file", "x.txt"), "[Errno 2] No such file: 'x.txt'"),
        (RuntimeError(), "RuntimeError"),
        (
            MemoryError(),
            "there is not enough memory (MemoryError): ask for less at once, or "
            "take a larger machine.",
        ),
        (
            ModuleNotFoundError("No module named 'papermill'", name="papermill"),
            "No module named 'papermill': `pip install 'l2m[book]'` installs it "
            "(in a checkout, '.[book]').",
        ),
        (
            ModuleNotFoundError("No module named 'mamba_ssm'", name="mamba_ssm"),
            "No module named 'mamba_ssm': `pip install 'l2m[gpu]'` installs it "
            "(in a checkout, '.[gpu]').",
        ),
    ],
)
def test_what_goes_wrong_is_said_without_a_traceback(monkeypatch, capsys, error, says):
    monkeypatch.setattr("l2m.chapters.staleness.check", raising(error))
    assert main(["check"]) == 2
    assert capsys.readouterr() == ("", f"l2m: {says}\n")


def test_a_bug_shows_its_traceback(monkeypatch):
    monkeypatch.setattr("l2m.chapters.staleness.check", raising(AttributeError("a bug")))
    with pytest.raises(AttributeError):
        main(["check"])


def test_models_that_are_not_there_remind_of_others(monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    missing = raising(OSError("no network"))
    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", missing)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", classmethod(missing))
    known = [{"name": "Llama-3.1-8B", "id": None}]
    monkeypatch.setattr("l2m.chapters.calculator.architectures", lambda: known)
    assert main(["models", "llama-3-8"]) == 2
    assert capsys.readouterr().err.endswith("(no network). Did you mean 'Llama-3.1-8B'?\n")
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'smollm2-135m'\?$"):
        load_tokenizer("smollm-135m")


def shell(command, **environment):
    """What a shell answers: status of `l2m`, standard output and error."""
    script = f"set -o pipefail; {shlex.quote(sys.executable)} -m l2m {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=os.environ | environment)
    return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode()


def test_who_reads_may_stop():
    assert shell("--help | true") == (141, "", "")


def test_a_reader_that_has_gone_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr("l2m.chapters.staleness.check", raising(BrokenPipeError(32, "Broken pipe")))
    monkeypatch.setattr(cli, "_silence", lambda stream: None)
    assert main(["check"]) == 141
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["--version", "--help"])
def test_a_full_disk_behind_the_output_is_one_sentence(command):
    status, _, error = shell(f"{command} > /dev/full")
    assert status == 2 and error.count("\n") == 1
    assert error.startswith("l2m: cannot write the output (No space left on device)")
    assert shell(f"{command} > /dev/full 2>&1") == (2, "", "")


CLOSED = """
import os, l2m.__main__, l2m.cli

def main(**_):
    with open({path!r}, "w") as file:
        os.system("echo of a child; echo of it >&2")
        print("said")
        file.write("mine")
        return 0 if file.fileno() > 2 else 9

l2m.cli.main = main
raise SystemExit(l2m.__main__.main())
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_files_of_ours(tmp_path, closed):
    """The next file that is opened would get the number of one, and what is printed into it."""
    script = shlex.quote(CLOSED.format(path=str(tmp_path / "x")))
    command = f"{shlex.quote(sys.executable)} -c {script} {closed}"
    assert subprocess.run(["bash", "-c", command], capture_output=True).returncode == 0
    assert (tmp_path / "x").read_text() == "mine"
    shown = f"l2m {l2m.__version__}\n" if closed == "2>&-" else ""
    assert shell(f"--version {closed}") == (0, shown, "")


def test_a_terminal_that_lacks_a_letter_shows_the_others():
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, out, error = shell("measure --help", PYTHONIOENCODING="latin-1", **locale)
    assert (status, error) == (0, "") and "The largest L/?; by default 2" in out


# stopped from outside

KEPT = {
    "check": "what was there before is untouched.",
    "measure": "what was scored is kept: run it again to go on.",
    "train": "what was trained is kept: run it again to go on.",
}
STOP = """
import dataclasses, os, sys, time, weakref

class Gone:
    pass

def stop(_=None):
    os.kill(os.getpid(), {number})
    time.sleep(0.1)

if {place!r} == "an import":
    stop()
elif {place!r} == "a callback":  # Python ignores what it raises, as in those of its imports
    gone = Gone()
    reference = weakref.ref(gone, stop)
    del gone
else:  # Python ends itself as of Ctrl-C, whatever the status, when KeyboardInterrupt passed here
    exec("stop()")
time.sleep(20)
"""


@pytest.mark.parametrize("place", ["an import", "a callback", "exec"])
@pytest.mark.parametrize(
    ("command", "number"),
    [("check", signal.SIGINT), ("measure", signal.SIGTERM), ("train", signal.SIGINT)],
)
def test_an_end_from_outside_says_what_is_kept(tmp_path, command, number, place):
    (tmp_path / "typer.py").write_text(STOP.format(number=int(number), place=place))
    root = os.path.dirname(os.path.dirname(l2m.__file__))
    done = subprocess.run(
        [sys.executable, "-m", "l2m", command, "x"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == f"\nl2m: stopped; {KEPT[command]}\n"


TAKEN = """
import os, sys, time
import l2m.__main__ as m, l2m.cli

def invoke(_):  # as transformers does when a signal breaks off one of its imports
    try:
        os.kill(os.getpid(), {number})
        time.sleep(20)
    except BaseException as error:
        raise {error}("Could not import it") from error

l2m.cli._invoke = invoke
sys.argv = ["l2m", "measure", "x"]
sys.exit(m.main())
"""


@pytest.mark.parametrize("error", ["ModuleNotFoundError", "SystemError", "OSError"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_takes_for_a_fault_of_its_own(number, error):
    done = subprocess.run(
        [sys.executable, "-c", TAKEN.format(number=int(number), error=error)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == f"\nl2m: stopped; {KEPT['measure']}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_done_stays_so_while_python_ends(number):
    script = "import atexit, os, l2m.__main__ as m, l2m.cli; l2m.cli.main = lambda **_: 5; "
    script += f"atexit.register(os.kill, os.getpid(), {int(number)}); raise SystemExit(m.main())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (5, "")


def test_what_runs_in_the_background_ignores_an_interrupt():
    script = "import os, signal, l2m.__main__ as m, l2m.cli; l2m.cli.main = "
    script += "lambda **_: os.kill(os.getpid(), signal.SIGINT) or 5; raise SystemExit(m.main())"
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    assert subprocess.run([sys.executable, "-c", script], **ignoring).returncode == 5


# run, build, check


@pytest.fixture
def ran(monkeypatch):
    """What `l2m run` planned and ran, of two made-up chapters; what `failures` holds fails."""
    found = SimpleNamespace(planned=[], ran=[], failures=[])
    monkeypatch.setattr("l2m.chapters.contents.chapters", lambda: ["01_a", "02_b"])
    monkeypatch.setattr("l2m.chapters.run.plan", lambda *given: found.planned.append(given))
    monkeypatch.setattr(
        "l2m.chapters.run.run_all", lambda _, *given: found.ran.append(given) or found.failures
    )
    return found


def test_run_passes_on_what_is_given(ran, capsys):
    given = ["--profile", "smoke", "-p", "bos", "-1", "-p", "name=a=b", "--jobs", "3", "--record"]
    ran.failures = ["02_b"]
    assert main(["run", "2", *given, "--output-dir", "x"]) == 1
    [(names, values, folder)] = ran.planned
    assert names == ["02_b"] and str(folder) == "x"
    assert values == {"profile": "smoke", "bos": "-1", "name": "a=b"}
    assert ran.ran == [(3, True)]
    assert capsys.readouterr().err == "l2m: failed: 02_b\n"


def test_run_without_chapters_runs_all(ran):
    assert main(["run"]) == 0
    assert ran.planned == [(["01_a", "02_b"], {}, None)] and ran.ran == [(1, False)]


def test_build_executes_and_then_builds_the_pages(ran, monkeypatch, capsys):
    ran.failures = ["02_b"]
    assert main(["build"]) == 1  # without pages
    assert capsys.readouterr() == ("", "l2m: failed: 02_b\n")
    ran.failures = []
    monkeypatch.setattr("l2m.chapters.calculator.write", lambda: print("the calculator's data"))
    monkeypatch.setattr("l2m.chapters.contents.write_pages", lambda: print("the pages"))
    monkeypatch.setattr("l2m.chapters.publish.build_pages", lambda: "index.html")
    assert main(["build"]) == 0
    assert (
        capsys.readouterr().out == "the calculator's data\nthe pages\nThe book is in index.html\n"
    )
    monkeypatch.setattr("l2m.chapters.publish.build_pages", raising(RuntimeError("not built.")))
    assert main(["build"]) == 2
    assert capsys.readouterr().err == "l2m: not built.\n"


def test_check_says_what_is_out_of_date(monkeypatch, capsys):
    monkeypatch.setattr("l2m.chapters.staleness.check", lambda names: ["01_a: it has changed."])
    assert main(["check"]) == 1
    assert capsys.readouterr().out == "01_a: it has changed.\n"
    monkeypatch.setattr("l2m.chapters.staleness.check", lambda names: [])
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "Every executed chapter is what its source gives.\n"


# measure


@pytest.fixture
def measured(monkeypatch):
    """Measurements that return what they are called with; their results are shown as text."""
    from l2m.experiments import measure as module

    def stub(real):
        def call(*args, **options):
            return inspect.signature(real).bind(*args, **options).arguments

        call.__signature__ = inspect.signature(real)
        return call

    for function, show in cli._MEASUREMENTS.values():
        monkeypatch.setattr(module, function, stub(getattr(module, function)))
        monkeypatch.setattr(
            module, show, lambda given, show=show: f"{show} {sorted(given.items())}"
        )
    return module


def test_measure_passes_on_only_what_is_given(measured, capsys):
    assert main(["measure", "mine", "--length", "16", "--bos", "-1", "--corpus", "books/"]) == 0
    given = [("bos", -1), ("corpus", "books/"), ("length", 16), ("name", "measured/mine")]
    assert capsys.readouterr().out == f"show_curves {given}\n"
    assert main(["measure", "a/b", "--what", "past", "--windows", "7", "--record"]) == 0
    assert capsys.readouterr().out == "show_costs [('name', 'a/b'), ('windows', 7)]\n"
    assert os.environ["L2M_RECORD"] == "1"
    assert main(["measure", "a/b", "--what", "missed", "--dtype", "float32"]) == 0
    assert capsys.readouterr().out == "show_gains [('dtype', 'float32'), ('name', 'a/b')]\n"


def test_measure_refuses_what_it_would_ignore(measured, capsys):
    assert main(["measure", "x", "--what", "past", "--largest-split", "3"]) == 2
    assert capsys.readouterr().err == "l2m: --what past takes no --largest-split: leave it out.\n"


def test_one_process_shows_the_result(measured, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(["measure", "x"]) == 0
    assert capsys.readouterr().out == ""


def test_measure_has_an_option_for_every_parameter_and_says_its_default(capsys):
    from l2m.experiments import measure as module

    main(["measure", "--help"])
    out = " ".join(capsys.readouterr().out.split("Options:")[1].split())
    for function, _ in cli._MEASUREMENTS.values():
        for name, parameter in inspect.signature(getattr(module, function)).parameters.items():
            if name == "name":
                continue
            about = out.split(f"--{name.replace('_', '-')} ")[1].split(" --")[0]
            if name not in ("largest_split", "documents"):  # 0: said in words
                assert str(parameter.default) in about, name


# train


class Experiment:
    """Two runs, the second of which does not finish; and what was asked of them."""

    def __init__(self):
        self.asked, self.done, self.gpu = [], set(), False

    def runs(self, grid):
        if grid != "smoke":
            raise ValueError(f"no grid {grid!r}: one of smoke.")
        return [self._run("one"), self._run("two")]

    def run(self, grid, name):
        return next(run for run in self.runs(grid) if run.name == name)

    def gather(self, grid):
        self.asked.append(("gather", grid, os.environ.get("L2M_RECORD")))

    def _run(self, name):
        return SimpleNamespace(
            name=name,
            finished=lambda: name in self.done,
            needs_gpu=lambda: self.gpu,
            carry_out=lambda deadline: self.asked.append((name, deadline)) or name == "one",
        )


@pytest.fixture
def experiment(monkeypatch):
    found = Experiment()
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(EXPERIMENT=found))
    return found


@pytest.fixture
def scheduled(monkeypatch):
    """The commands that are run over the devices, and a failure of "two" if it is among them."""
    found = []

    def run_all(commands, logs, per_device, deadline):
        found.append((commands, logs, per_device, deadline))
        return {name: "exit status 1" for name in commands if name == "two"}

    monkeypatch.setattr("l2m.experiments.runs.run_all", run_all)
    return found


def test_train_lists_a_command_for_each_run(experiment, capsys):
    assert main(["train", "books", "--grid", "smoke", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "l2m train books --grid smoke --run one"
    assert main(shlex.split(lines[0])[1:]) == 0  # what is listed is a command
    assert experiment.asked == [("one", float("inf"))]


def test_train_carries_out_one_run_within_its_deadline(experiment, monkeypatch):
    one = ["train", "books", "--grid", "smoke", "--run", "two"]
    assert main([*one, "--deadline", "100"]) == UNFINISHED
    assert main([*one, "--until", str(time.time() + 50)]) == UNFINISHED
    assert main([*one, "--until=inf"]) == UNFINISHED
    (_, first), (_, second), (_, third) = experiment.asked
    assert 90 < first <= 100 and 40 < second <= 50 and third == float("inf")
    monkeypatch.setenv("RANK", "1")  # of torchrun: the first process says how it ended
    assert main(one) == 0


def test_train_schedules_what_is_not_finished_and_then_gathers(experiment, scheduled, capsys):
    grid = ["train", "books", "--grid", "smoke", "--per-gpu", "2", "--deadline", "100"]
    assert main([*grid, "--record"]) == 1
    [(commands, logs, per_gpu, deadline)] = scheduled
    *command, until = commands["one"]
    assert command == [
        sys.executable,
        "-m",
        "l2m",
        *["train", "books", "--grid", "smoke", "--run", "one"],
    ]
    assert abs(float(until.removeprefix("--until=")) - time.time() - 100) < 20
    assert per_gpu == 2 and 80 < deadline <= 100 and logs.parts[-3:] == ("runs", "books", "logs")
    error = capsys.readouterr().err
    assert error == "l2m: two: exit status 1\nl2m: 1 of 2 runs are left: run it again.\n"
    assert experiment.asked == []

    experiment.done = {"two"}
    assert main([*grid, "--record"]) == 0
    assert list(scheduled[1][0]) == ["one"]
    assert experiment.asked == [("gather", "smoke", "1")]
    assert capsys.readouterr().out.startswith("The runs of smoke are finished")


def test_train_says_at_once_that_there_is_no_gpu(experiment, scheduled, capsys):
    experiment.gpu = True
    assert main(["train", "books", "--grid", "smoke"]) == 2
    error = capsys.readouterr().err
    assert error == "l2m: no GPU is here for one, two; --grid smoke needs none.\n"
    assert scheduled == []


def test_train_takes_no_more_places_than_runs(experiment, monkeypatch):
    monkeypatch.setattr("l2m.experiments.runs.visible_devices", lambda: [""])
    arguments = ["train", "books", "--grid", "smoke", "--per-gpu", "1" + "0" * 30]
    assert main([*arguments, "--deadline", "0"]) == 1


def test_train_refuses_unknown_grids(experiment, capsys):
    assert main(["train", "books", "--grid", "big"]) == 2
    assert capsys.readouterr().err == "l2m: no grid 'big': one of smoke.\n"


def test_both_experiments_can_be_listed(capsys):
    for what in ("gaussian", "books"):
        assert main(["train", what, "--grid", "smoke", "--list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines and all(
            line.startswith(f"l2m train {what} --grid smoke --run ") for line in lines
        )


# models


def test_models(monkeypatch, capsys):
    monkeypatch.setattr("l2m.chapters.calculator.table", lambda *given: f"all {given}")
    monkeypatch.setattr("l2m.chapters.calculator.described", lambda *given: f"one {given}")
    assert main(["models"]) == 0
    assert main(["models", "mine/config.json", "--beta", "0.5", "--length", "100"]) == 0
    out = capsys.readouterr().out
    assert out == "all (0.75, 1000000)\none ('mine/config.json', 0.5, 100)\n"


@pytest.mark.slow
def test_what_a_measurement_lacks_is_said_and_not_the_command_again(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["measure", "x", "--model", "smolm2-135m", "--windows", "4", "--length", "8"]) == 2
    said = capsys.readouterr().err
    assert "Did you mean 'smollm2-135m'?" in said and "It is made by" not in said
