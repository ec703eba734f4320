"""The command line: ``python -m l2m run | book | check``."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from l2m import __version__
from l2m.chapters.contents import ChapterError, chapters, check, find_chapter
from l2m.chapters.parameters import ParameterError
from l2m.chapters.run import plan, run_all
from l2m.results import ROOT

# Its module does nothing when it is run with -m.
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
BUILD = [sys.executable, "-c", _JUPYTER_BOOK, "build", ".", "-n", "-W", "--keep-going"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ChapterError, ParameterError) as error:
        print(f"l2m: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        cure = "pip install --editable '.[book]' (or make book) installs what chapters need"
        print(f"l2m: {error}; {cure}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nl2m: stopped; what was there before is untouched.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m l2m", description="Run and check the book.")
    parser.add_argument("--version", action="version", version=f"l2m {__version__}")
    commands = parser.add_subparsers(required=True, metavar="run | book | check")

    run = commands.add_parser("run", help="execute chapters")
    run.add_argument("chapters", nargs="*", metavar="CHAPTER", help="names or numbers; default all")
    run.add_argument("--profile", help="smoke, book (what is published) or paper")
    run.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"
    )
    run.add_argument("--record", action="store_true", help="write new results to results/")
    run.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="default: book/ for the published parameters, _runs/ for others",
    )
    _add_jobs(run)
    run.set_defaults(command=_run)

    book = commands.add_parser("book", help="execute all chapters and build the pages")
    _add_jobs(book)
    book.set_defaults(command=_book)

    checks = commands.add_parser("check", help="say which executed chapters are out of date")
    checks.add_argument("chapters", nargs="*", metavar="CHAPTER")
    checks.set_defaults(command=_check)
    return parser


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="chapters at once")


def _run(options) -> int:
    names = [find_chapter(text) for text in options.chapters] or chapters()
    given = dict(options.p)
    if options.profile is not None:
        given["profile"] = options.profile
    return _execute(names, options.jobs, given, options.output_dir, options.record)


def _execute(names, jobs: int, given: dict, output_dir=None, record: bool = False) -> int:
    if jobs < 1:
        raise ParameterError(f"--jobs takes an integer from 1, not {jobs}.")
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    failures = run_all(plan(names, given, output_dir, record=record, threads=threads), jobs)
    if failures:
        print(f"l2m: failed: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


def _book(options) -> int:
    failed = _execute(chapters(), options.jobs, {})
    if failed:
        return failed
    if subprocess.run(BUILD, cwd=ROOT).returncode:
        print("l2m: the pages were not built; see above.", file=sys.stderr)
        return 1
    print(f"The book is in {ROOT / '_build' / 'html' / 'index.html'}")
    return 0


def _check(options) -> int:
    problems = check([find_chapter(text) for text in options.chapters] or None)
    for problem in problems:
        print(problem)
    if not problems:
        print("Every executed chapter is what its source gives.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
