"""Try to break what the book promises, and count: for the table on the status page.

    python benchmarks/promises.py                                # all of them; about two hours
    python benchmarks/promises.py kills --kills 30 --seed 7      # those with this word in them
    python benchmarks/promises.py "of a server" --record         # write results/benchmarks/

A promise is kept as often as its tests pass. Most tests are one try; some count theirs, such as the
kills of `tests/test_kills.py`, of which `--kills` says how many a command gets, drawn by `--seed`.
"""

import argparse
import os
import platform
import sys
import time

import pytest
from timing import record

KILLS = "tests/test_kills.py::test_a_killed_command_goes_on_and_makes_the_same"
KILLED = "Killed at any moment, {} goes on to the same numbers; nothing is in part, nothing left"
COMMANDS = {
    "l2m measure": "`l2m measure`",
    "l2m measure warm": "`l2m measure --warm`",
    "l2m measure server": "`l2m measure --server`",
    "l2m train gaussian": "`l2m train gaussian`",
    "l2m train books": "`l2m train books`",
    "l2m run record": "`l2m run --record`",
    "l2m build": "`l2m build`",
    "the embedded model": "the making of the embedded model",
}
LOST, SERVED = "tests/test_nothing_lost.py::test_", "tests/language_models/test_served.py::test_"
PROMISES = {KILLED.format(said): [f"{KILLS}[{name}]"] for name, said in COMMANDS.items()} | {
    "Ctrl-C and SIGTERM end a command while it imports, waits or ends, with what is kept": [
        "tests/test_cli.py::test_an_end_from_outside_says_what_is_kept",
        "tests/test_cli.py::test_what_is_done_stays_so_while_python_ends",
        "tests/chapters/test_run.py::test_an_end_from_outside_leaves_the_book_alone",
        f"{SERVED}ctrl_c_does_not_wait_for_a_server",
    ],
    "No damage to a stored file, cut or flipped, is taken for what was stored": [
        f"{LOST}no_damage_is_taken_for_what_was_stored"
    ],
    "A disk that is full or takes nothing is said with its path; what was there stays": [
        f"{LOST}a_full_disk_is_said_and_nothing_is_lost",
        f"{LOST}a_folder_that_takes_nothing_is_said",
    ],
    "Of two at once on one folder, one waits or is refused": [
        f"{LOST}of_two_at_once_one_waits_or_is_refused",
        f"{LOST}who_reads_a_result_while_it_is_written_waits_for_all_of_it",
    ],
    "A folder of a model, whatever is in it, loads or is refused in a sentence; no code runs": [
        "tests/language_models/test_strange_models.py"
    ],
    "A file that is no text is refused at once, and none is left out in silence": [
        "tests/text/test_strange_files.py"
    ],
    "An answer of a server that is no log-likelihood is refused, whatever it is": [
        f"{SERVED}an_answer_that_is_no_log_likelihood_is_refused",
        f"{SERVED}what_is_no_server_of_models_is_refused",
        f"{SERVED}what_a_server_says_of_itself_may_be_odd",
        f"{SERVED}a_log_probability_of_another_type_is_refused",
        f"{SERVED}answers_cut_to_pieces_are_refused_in_a_sentence",
        f"{SERVED}a_key_is_for_its_server_and_is_never_shown",
    ],
    "A mistake on the command line is one sentence that names the option": [
        "tests/test_cli.py::test_a_mistake_is_one_sentence"
    ],
    "Counts, weights, partners and splits that are none are refused; the rest is finite": [
        "tests/information/test_strange_numbers.py"
    ],
    "Pages hold no markup of a name, no folder of the machine, no secret": [
        "tests/chapters/test_publish.py::test_local_folders_and_secrets_are_cut",
        "tests/chapters/test_publish.py::test_only_whole_folders_are_cut",
        "tests/chapters/test_publish.py::test_names_that_hold_markup_are_text",
    ],
    "Nothing that is read can run code": ["tests/test_no_code_from_data.py"],
    "Memory stays within the bounds that are stated": ["tests/test_bounds.py"],
    "Batches, threads, parts, processes and the order of documents change no number": [
        "tests/language_models/test_scoring.py::test_batches_order_and_more_partners",
        "tests/language_models/test_scoring.py::test_batches_and_threads_agree",
        "tests/information/test_two_point.py::test_order_of_documents_and_threads",
        "tests/training/test_loop.py::test_threads_of_torch_agree",
        "tests/training/test_loop.py::test_two_processes_train_as_one",
        "tests/training/test_loop.py::test_a_killed_run_resumes_to_the_very_same_weights",
    ],
}


class Count:
    """A plugin of pytest that runs the tests of some promises, and counts."""

    def __init__(self, promises):
        self.promises, self.tried, self.kept = promises, {}, {}

    def promise_of(self, name):
        found = (p for p in self.promises if any(map(name.startswith, PROMISES[p])))
        return next(found, None)

    def pytest_collection_modifyitems(self, config, items):
        others = [item for item in items if not self.promise_of(item.nodeid)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]

    def pytest_runtest_logreport(self, report):
        """Count a test once: when it was called, or could not be set up."""
        if report.when != "call" and not report.failed:
            return
        promise, own = self.promise_of(report.nodeid), dict(report.user_properties)
        tried = own.get("tried", 1)
        kept = own.get("survived", tried if report.passed else 0)
        self.tried[promise] = self.tried.get(promise, 0) + tried
        self.kept[promise] = self.kept.get(promise, 0) + kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("word", nargs="?", default="", help="only promises with this in them")
    parser.add_argument("--kills", type=int, default=25, help="of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    os.environ |= {"L2M_KILLS": str(args.kills), "L2M_SEED": str(args.seed)}
    count = Count([promise for promise in PROMISES if args.word.lower() in promise.lower()])
    files = {test.split("::")[0] for promise in count.promises for test in PROMISES[promise]}
    status = pytest.main(["-q", "-s", *sorted(files)], plugins=[count])
    device = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    about = {"date": time.strftime("%Y-%m-%d"), "device": device}
    for promise, tried in count.tried.items():
        print(f"{count.kept[promise]} of {tried}: {promise}")
        row = {"tried": tried, "kept": count.kept[promise]} | about
        if promise.startswith("Killed"):
            row["seed"] = args.seed
        if args.record:
            record("promises", {promise: row})
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
