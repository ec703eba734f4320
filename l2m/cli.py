"""The command `l2m`: chapters, measurements, training runs and models, from a shell.

It is made with typer: an option is one typed parameter with its help, and transformers brings typer
along. What is heavy is imported where it is used, so that ``l2m --help`` answers at once.
"""

import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from l2m import __version__

UNFINISHED = 75  # exit status of a training run that stopped for its deadline
_KEPT = {  # by Ctrl-C, where it is more than what was there before
    "measure": "what was scored is kept: run it again to go on.",
    "train": "what was trained is kept: run it again to go on.",
}
_MEASUREMENTS = {  # --what → function, and what prints its result, of l2m.experiments.measure
    "information": ("measure", "show_curves"),
    "past": ("past_terms", "show_costs"),
    "missed": ("missed_terms", "show_gains"),
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Chapters = Annotated[
    list[str] | None, typer.Argument(metavar="CHAPTER", help="Names or numbers; all by default.")
]
Jobs = Annotated[int, typer.Option(min=1, metavar="N", help="Chapters at once.")]
Record = Annotated[bool, typer.Option("--record", help="Write new results to results/.")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 2, and one sentence, for what a user can cure."""
    arguments = _paired(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(app)
    try:
        with command.make_context("l2m", arguments) as context:
            return command.invoke(context) or 0
    except typer.Exit as done:  # after --help or --version
        return done.exit_code
    except typer.TyperException as error:
        path = error.ctx.command_path if getattr(error, "ctx", None) else "l2m"
        said = f"{error.format_message().rstrip('.')} (see `{path} --help`)."
    except ModuleNotFoundError as error:
        extra = "gpu" if error.name in ("mamba_ssm", "causal_conv1d") else "book"
        said = f"{error}: `pip install --editable '.[{extra}]'` in a checkout installs it."
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        said = str(error) or type(error).__name__
    except KeyboardInterrupt:
        kept = _KEPT.get(arguments[0], "what was there before is untouched.")
        print(f"\nl2m: stopped; {kept}", file=sys.stderr)
        return 130
    print("l2m:", " ".join(said.split()), file=sys.stderr)
    return 2


def _paired(arguments: list[str]) -> list[str]:
    """Write ``-p NAME VALUE`` as ``-p NAME=VALUE``: no option of typer's takes pairs repeatedly."""
    found = []
    for argument in arguments:
        if found[-2:-1] == ["-p"] and "=" not in found[-1]:
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
):
    """Measure how much the past of a text knows of its future, and run the book about it.

    `l2m COMMAND --help` explains a command.
    """
    if version:
        print(f"l2m {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(
    chapters: Chapters = None,
    profile: Annotated[
        str | None, typer.Option(help="smoke (seconds), book (as published) or paper.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME VALUE", help="A parameter; may be given repeatedly."),
    ] = None,
    record: Record = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="By default book/ for published parameters, else _runs/."),
    ] = None,
    jobs: Jobs = 1,
) -> int:
    """Execute chapters.

    Example: l2m run 2 --profile smoke -p longest 128
    """
    from l2m.chapters.contents import find_chapter

    given = {} if profile is None else {"profile": profile}
    for pair in parameters or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"-p takes a name and a value, such as `-p seed 1`, not {pair!r}.")
        given[name] = value
    return _execute(list(map(find_chapter, chapters or [])), jobs, given, output_dir, record)


def _execute(names: list[str], jobs: int, given: dict, output_dir=None, record=False) -> int:
    from l2m.chapters.contents import chapters
    from l2m.chapters.run import plan, run_all

    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    todo = plan(names or chapters(), given, output_dir, record=record, threads=threads)
    failures = run_all(todo, jobs)
    if failures:
        print(f"l2m: failed: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


@app.command()
def build(jobs: Jobs = 1) -> int:
    """Execute all chapters, and build the pages of the book.

    Example: l2m build --jobs 2
    """
    import subprocess

    from l2m.chapters import calculator
    from l2m.chapters.publish import BUILD
    from l2m.files import ROOT

    if failed := _execute([], jobs, {}):
        return failed
    calculator.write()
    if subprocess.run(BUILD, cwd=ROOT).returncode:
        print("l2m: the pages were not built; see above.", file=sys.stderr)
        return 1
    print(f"The book is in {ROOT / '_build' / 'html' / 'index.html'}")
    return 0


@app.command()
def check(chapters: Chapters = None) -> int:
    """Say which executed chapters are no longer what their source would give.

    Example: l2m check 2 3
    """
    from l2m.chapters import staleness
    from l2m.chapters.contents import find_chapter

    problems = staleness.check(list(map(find_chapter, chapters or [])) or None)
    print("\n".join(problems) or "Every executed chapter is what its source gives.")
    return 1 if problems else 0


def _number(text: str, least: int = 0):
    return typer.Option(min=least, metavar="N", help=text)


@app.command()
def measure(
    name: Annotated[str, typer.Argument(help="Of the result: FOLDER/NAME, or NAME in measured/.")],
    what: Annotated[
        Literal["information", "past", "missed"],
        typer.Option(
            help="The mutual information of the halves of windows; how much of the past the model "
            "uses; or what it misses of its past, at least."
        ),
    ] = "information",
    corpus: Annotated[
        str | None, typer.Option(help="A name, file or folder; english-novels-100 by default.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A name, folder or Hub id; smollm2-135m by default.")
    ] = None,
    length: Annotated[
        int | None, _number("Tokens a window; 2048 by default, 4096 for --what past.", 1)
    ] = None,
    windows: Annotated[
        int | None, _number("How many; 1000 by default, 200 for --what past.", 1)
    ] = None,
    ratio: Annotated[int | None, _number("The largest L/ℓ; 2 by default.")] = None,
    largest_split: Annotated[
        int | None, _number("The largest ℓ; by default, or with 0, half the length.")
    ] = None,
    partners: Annotated[
        int | None, _number("Continuations that each window borrows for vCLUB; 1 by default.")
    ] = None,
    bos: Annotated[
        int | None,
        typer.Option(min=-1, metavar="ID", help="First token of sequences; -1: the model's own."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the model; bfloat16 by default."),
    ] = None,
    seed: Annotated[int | None, _number("Of the windows and partners; 0 by default.")] = None,
    documents: Annotated[
        int | None, _number("Read that many of the corpus; by default, or with 0, all.")
    ] = None,
    record: Record = False,
):
    """Measure a corpus under a language model; killed, it goes on where it was.

    Example: l2m measure mine --corpus my_books/ --model Qwen/Qwen3-0.6B-Base --windows 500

    On several GPUs: torchrun --nproc-per-node 2 -m l2m measure mine --corpus my_books/
    """
    given = {key: value for key, value in locals().items() if value is not None}
    for key in ("name", "what", "record"):
        given.pop(key)
    import inspect

    module = import_module("l2m.experiments.measure")
    function, show = (getattr(module, name) for name in _MEASUREMENTS[what])
    for key in given.keys() - inspect.signature(function).parameters.keys():
        raise ValueError(f"--what {what} takes no --{key.replace('_', '-')}: leave it out.")
    if record:
        os.environ["L2M_RECORD"] = "1"
    result = function(name if "/" in name else f"measured/{name}", **given)
    if int(os.environ.get("RANK", 0)) == 0:
        show(result)


@app.command()
def train(
    what: Annotated[
        Literal["gaussian", "books"],
        typer.Argument(help="Gaussian sequences whose truth is known (chapter 6), or books (7)."),
    ],
    grid: Annotated[str, typer.Option(help="Which models: smoke needs no GPU; book is published.")],
    show_list: Annotated[
        bool, typer.Option("--list", help="Print a shell command for each run, and train nothing.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Train this run only, here.")
    ] = None,
    per_gpu: Annotated[int, typer.Option(min=1, metavar="N", help="Runs at once on a GPU.")] = 1,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop in good time, to go on later.")
    ] = None,
    record: Record = False,
    until: Annotated[float | None, typer.Option(hidden=True)] = None,  # the deadline, as a time
) -> int:
    """Train and evaluate the models of a grid, over all GPUs; killed, it goes on where it was.

    Example: l2m train gaussian --grid smoke
    """
    import shlex

    experiment = import_module(f"l2m.experiments.{what}").EXPERIMENT
    if grid not in experiment.grids:
        raise ValueError(f"no grid {grid!r} of {what}: choose {', '.join(experiment.grids)}.")
    runs = {run.name: run for run in experiment.runs(grid)}
    again = ["train", what, "--grid", grid, "--run"]
    if show_list:
        print("\n".join(shlex.join(["l2m", *again, run]) for run in runs))
        return 0
    until = until or time.time() + (float("inf") if deadline is None else deadline)
    if name:
        if name not in runs:
            raise ValueError(f"no run {name!r} in grid {grid!r}: --list names them.")
        finished = experiment.carry_out(runs[name], until - time.time())
        return 0 if finished else UNFINISHED
    commands = {
        run: [sys.executable, "-m", "l2m", *again, run, "--until", str(until)] for run in runs
    }
    logs = cache_dir() / "runs" / what / "logs"
    failed = run_all(commands, logs, per_device=per_gpu, deadline=until - time.time())
    later = [
        r
        for r, why in failed.items()
        if why.startswith(("not started", f"exit status {UNFINISHED}"))
    ]
    for run in failed.keys() - later:
        print(f"l2m: {run}: {failed[run]}", file=sys.stderr)
    if failed:
        print(
            f"l2m: {len(failed)} of {len(runs)} runs are not finished: run it again to go on.",
            file=sys.stderr,
        )
        return UNFINISHED if len(later) == len(failed) else 1
    if record:
        os.environ["L2M_RECORD"] = "1"
    experiment.gather(grid)
    print(f"{len(runs)} runs are finished, and their tables gathered.")
    return 0


@app.command()
def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Of the table, a Hub id, a folder or a config.json; all of the table by default.",
        ),
    ] = None,
    beta: Annotated[float, typer.Option(min=0, max=1, help="Exponent of I_BP ~ L^β.")] = 0.75,
    length: Annotated[int, typer.Option(min=2, metavar="L", help="Tokens.")] = 1_000_000,
) -> int:
    """Say what models keep of the first half of L tokens, and whether that can grow enough.

    Example: l2m models Qwen/Qwen3-0.6B --beta 0.8
    """
