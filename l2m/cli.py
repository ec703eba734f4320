"""The command `l2m`: chapters, measurements, training runs and models, from a shell.

What is heavy is imported where it is used, so that ``l2m --help`` answers at once.
"""

import errno
import inspect
import os
import re
import shlex
import sys
import time
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Annotated, Literal

import typer

from l2m import __version__

UNFINISHED = 75  # exit status of training runs that stopped for their deadline
_MEASUREMENTS = {  # --what → functions of l2m.experiments.measure: it, and what words its result
    "information": ("measure", "show_curves"),
    "past": ("past_terms", "show_costs"),
    "missed": ("missed_terms", "show_gains"),
    "cache": ("cache_terms", "show_kept"),
    "bytes": ("window_bytes", "show_bytes"),
}
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main(arguments: list[str] | None = None, signals=()) -> int:
    """Run the command line; return the exit status: 2, and a sentence, for what a user can cure.

    Once there are `signals`, an error is not explained but raised: they have broken something off,
    and an import, say, turns what they raise into an error of its own.
    """
    arguments = _paired(sys.argv[1:] if arguments is None else arguments)
    if hasattr(sys.stdout, "reconfigure"):  # what a terminal cannot show is a question mark
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _invoke(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads, such as `head`, has enough
        _silence(sys.stdout)
        return 128 + 13
    except Exception as error:
        if signals or not (said := _sentence(error)):
            raise
    try:
        print("l2m:", " ".join(said.split()), file=sys.stderr)
        sys.stdout.flush()
    except OSError:  # one of them is full
        _silence(sys.stdout)
        _silence(sys.stderr)
    return 2


def _sentence(error: Exception) -> str:
    """What is wrong, and the cure; nothing for what no user can cure."""
    match error:
        case typer.TyperException():
            path = error.ctx.command_path if getattr(error, "ctx", None) else "l2m"
            said = error.format_message().replace("Value error, ", "").rstrip(".")
            return f"{said} (see `{path} --help`)."
        case ModuleNotFoundError():
            extra = "gpu" if error.name in ("mamba_ssm", "causal_conv1d") else "book"
            cure = f"`pip install 'l2m[{extra}]'` installs it (in a checkout, '.[{extra}]')"
            return f"{error}: {cure}."
        case MemoryError():
            cure = "ask for less at once, or take a larger machine"
            return f"there is not enough memory ({str(error) or 'MemoryError'}): {cure}."
        case OSError(errno=errno.ENOSPC, filename=None):
            return f"cannot write the output ({error.strerror}): give it another place."
        case ImportError() | OSError() | ValueError() | RuntimeError():
            return str(error) or type(error).__name__
    return ""


def _invoke(arguments: list[str]) -> int:
    if any(re.fullmatch("(--[a-z-]+=)?", argument) for argument in arguments):
        cure = "leave it out, or say what it is (a variable of the shell may not be set)"
        raise ValueError(f"an argument is empty: {cure}.")
    try:
        with typer.main.get_command(app).make_context("l2m", arguments) as context:
            return context.command.invoke(context) or 0
    except typer.Exit as done:  # after --help or --version
        return done.exit_code


def _silence(stream) -> None:
    """Let nothing of it be written any more, as Python does once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _paired(arguments: list[str]) -> list[str]:
    """Write ``-p NAME VALUE`` as ``-p NAME=VALUE``: typer has no repeated option of two values."""
    found = []
    for argument in arguments:
        pair = found[-2:-1] == ["-p"] and "=" not in found[-1]
        found[-1:] = [f"{found[-1]}={argument}"] if pair else [*found[-1:], argument]
    return found


def _option(*names: str, **about):  # its help says its default
    return typer.Option(*names, show_default=False, **about)


def _count(text: str, least: int = 0):
    return _option(min=least, metavar="N", help=text)


Texts, Text, Count = list[str] | None, str | None, int | None
Chapters = Annotated[Texts, typer.Argument(help="Names or numbers; by default all.")]
Jobs = Annotated[int, _count("Chapters at once; by default 1.", 1)]
Record = Annotated[bool, _option("--record", help="Write new results to results/.")]
Version = Annotated[bool, _option("--version", help="Print the version.")]
Dtype = Literal["float32", "bfloat16", "float16"] | None


@app.callback(invoke_without_command=True)
def _top(context: typer.Context, version: Version = False):
    """Measure how much the past of a text knows of its future, and run the book about it."""
    for name in ("L2M_CACHE", "L2M_CORPORA"):  # chapters work in another folder
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
    if version:
        print(f"l2m {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help(), "\n\n`l2m COMMAND --help` explains a command.", sep="")


@app.command()
def run(
    chapters: Chapters = None,
    profile: Annotated[Text, _option(help="smoke (small), book (published) or paper.")] = None,
    parameters: Annotated[Texts, _option("-p", metavar="NAME VALUE", help="A parameter.")] = None,
    record: Record = False,
    output_dir: Annotated[Path | None, _option(help="By default book/; changed: _runs/.")] = None,
    jobs: Jobs = 1,
) -> int:
    """Execute chapters of the book.

    Example: l2m run 2 --profile smoke -p groups 4
    """
    from l2m.chapters import contents
    from l2m.chapters.run import plan, run_all

    named = dict.fromkeys(map(contents.find_chapter, chapters or []))
    names = list(named) or contents.chapters()
    given = {} if profile is None else {"profile": profile}
    for pair in parameters or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"-p takes a name and a value, such as `-p seed 1`, not {pair!r}.")
        given[name] = value
    failures = run_all(plan(names, given, output_dir), jobs, record)
    if failures:
        print(f"l2m: failed: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


@app.command()
def build(jobs: Jobs = 1) -> int | None:
    """Execute all chapters, and build the pages of the book.

    Example: l2m build --jobs 2
    """
    if failed := run(jobs=jobs):
        return failed
    from l2m.chapters import calculator, contents, publish

    calculator.write()
    contents.write_pages()
    print(f"The book is in {publish.build_pages()}")


@app.command()
def check(chapters: Chapters = None) -> int:
    """Say which executed chapters are out of date, and why.

    Example: l2m check 2 3
    """
    from l2m.chapters import contents, staleness

    problems = staleness.check(list(map(contents.find_chapter, chapters or [])) or None)
    print("\n".join(problems) or "Every executed chapter is what its source gives.")
    return 1 if problems else 0


@app.command()
def measure(
    name: Annotated[str, typer.Argument(help="Of the result: FOLDER/NAME, or NAME in measured/.")],
    what: Annotated[
        Literal[tuple(_MEASUREMENTS)],
        _option(
            help="What the past knows (by default), what of it a model uses, misses, or a cut "
            "cache keeps; or how long tokens are."
        ),
    ] = "information",
    corpus: Annotated[Text, _option(help="Name or path; by default english-novels-100.")] = None,
    model: Annotated[Text, _option(help="Hub id, folder, .gguf; by default smollm2-135m.")] = None,
    length: Annotated[Count, _count("Tokens per window; by default 2048, past: 4096.", 1)] = None,
    windows: Annotated[Count, _count("How many; by default 1000, past and cache: 200.", 1)] = None,
    ratio: Annotated[Count, _count("The largest L/ℓ; by default 2.", 2)] = None,
    largest_split: Annotated[Count, _count("The largest ℓ; by default half the length.")] = None,
    partners: Annotated[
        Count, _count("Foreign pasts per window, for vCLUB; by default 1.", 1)
    ] = None,
    bos: Annotated[Count, _count("First token id; by default -1, the model's own.", -1)] = None,
    dtype: Annotated[Dtype, _option(help="Of the model; by default bfloat16.")] = None,
    seed: Annotated[Count, _count("Of windows and partners; by default 0.")] = None,
    documents: Annotated[Count, _count("Read so many of the corpus; by default all.")] = None,
    warm: Annotated[
        Text,
        _option(metavar="C,C", help="Price Y also after c tokens of another book; cache: 64."),
    ] = None,
    budgets: Annotated[
        Text,
        _option(metavar="K,K", help="Entries, or shares; by default 1/2,1/4,1/8,1/16,1/32,1/64."),
    ] = None,
    server: Annotated[Text, _option(metavar="URL", help="Where the model is served.")] = None,
    record: Record = False,
) -> None:
    """Measure a corpus under a language model.

    Killed, it goes on where it was. Example: l2m measure mine --corpus books/ --windows 500

    On two GPUs: torchrun --nproc-per-node 2 -m l2m measure mine --corpus books/
    """
    given = {key: value for key, value in locals().items() if value is not None}
    from l2m.experiments.runs import main_process
    from l2m.results import MissingResult

    module = import_module("l2m.experiments.measure")
    function, show = (getattr(module, attribute) for attribute in _MEASUREMENTS[what])
    taken = inspect.signature(function).parameters.keys()
    for key in given.keys() - taken - {"what", "record"}:
        raise ValueError(f"--what {what} takes no --{key.replace('_', '-')}: leave it out.")
    if record:
        os.environ["L2M_RECORD"] = "1"
    given["name"] = name if "/" in name else f"measured/{name}"
    try:
        result = function(**{key: given[key] for key in taken & given.keys()})
    except MissingResult as error:  # it says to give this very command
        raise error.__cause__ or error from None
    if main_process():
        print(show(result))


@app.command()
def train(
    what: Annotated[Literal["gaussian", "books"], typer.Argument(help="What they are trained on.")],
    grid: Annotated[str, _option(help="Which models: smoke, which needs no GPU, book, …")],
    listed: Annotated[bool, _option("--list", help="Only print a command for each run.")] = False,
    name: Annotated[Text, _option("--run", metavar="NAME", help="Only this run, here.")] = None,
    per_gpu: Annotated[int, _count("Runs at once on a GPU; by default 1.", 1)] = 1,
    deadline: Annotated[float, _option(min=0, metavar="SECONDS", help="Stop then.")] = inf,
    record: Record = False,
    until: Annotated[float, _option(hidden=True)] = 0,  # the deadline, as a time
) -> int:
    """Train and evaluate a grid of models.

    All GPUs are used; killed, it goes on where it was. Example: l2m train gaussian --grid smoke
    """
    from l2m.experiments.runs import main_process, run_all
    from l2m.files import cache_dir, leashed

    leashed()
    experiment = import_module(f"l2m.experiments.{what}").EXPERIMENT
    runs, until = experiment.runs(grid), until or time.time() + deadline
    commands = {r.name: ["train", what, "--grid", grid, "--run", r.name] for r in runs}
    if listed:
        print(*(shlex.join(["l2m", *command]) for command in commands.values()), sep="\n")
        return 0
    if name:
        finished = experiment.run(grid, name).carry_out(until - time.time())
        return 0 if finished or not main_process() else UNFINISHED
    todo = [run for run in runs if not run.finished()]
    if large := [run.name for run in todo if run.needs_gpu()]:
        raise ValueError(f"no GPU is here for {', '.join(large[:3])}; --grid smoke needs none.")
    start, end = [sys.executable, "-m", "l2m"], f"--until={until}"
    commands = {run.name: [*start, *commands[run.name], end] for run in todo}
    logs = cache_dir() / "runs" / what / "logs"
    left = run_all(commands, logs, per_device=per_gpu, deadline=until - time.time())
    for run, why in left.items():
        print(f"l2m: {run}: {why}", file=sys.stderr)
    if left:
        print(f"l2m: {len(left)} of {len(todo)} runs are left: run it again.", file=sys.stderr)
        return 1
    if record:
        os.environ["L2M_RECORD"] = "1"
    experiment.gather(grid)
    print(f"The runs of {grid} are finished, and their tables are gathered.")
    return 0


@app.command()
def models(
    name: Annotated[Text, typer.Argument(help="Hub id or config.json; by default all.")] = None,
    beta: Annotated[float, _option(min=0, max=1, help="Of I_BP ~ L^β; by default 0.75.")] = 0.75,
    length: Annotated[int, _count("L, in tokens; by default 1000000.", 2)] = 1_000_000,
) -> None:
    """Say what models keep of their past, and how it grows.

    After L/2 tokens, with the verdict of the L²M condition. Example: l2m models --beta 0.8
    """
    from l2m.chapters import calculator

    print(calculator.described(name, beta, length) if name else calculator.table(beta, length))
