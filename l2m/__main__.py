"""``python -m l2m``, ``torchrun -m l2m`` and the script `l2m`: the command, and how it is stopped.

Ctrl-C and SIGTERM end it at any moment, also while it imports, with one sentence of what is kept
and the status of the signal, 128 and its number. Once all is done, nothing ends it but its end.
"""

import os
import signal
import sys
import threading
from contextlib import suppress

_KEPT = {
    "measure": "what was scored is kept: run it again to go on.",
    "train": "what was trained is kept: run it again to go on.",
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received = []


class Stopped(KeyboardInterrupt):
    """What a signal raises; of KeyboardInterrupt itself Python remembers that it passed `exec`."""


def _stop(number, _frame):
    _received.append(number)
    raise Stopped


def _answer(handler):
    """Have signals handled so, but those that are ignored, as of what runs in the background."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _ignored(unraisable):
    """Send the signal again where Python ignores what it raised, as in callbacks of imports."""
    if unraisable.exc_type is not Stopped:
        return sys.__unraisablehook__(unraisable)
    threading.Timer(0.01, os.kill, [os.getpid(), _received[-1]]).start()


def _open_streams():
    """Have what a shell has closed lead nowhere: the next file would be written to in its place."""
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # the first number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def main() -> int:
    """Run the command line of this process; return its exit status."""
    _open_streams()
    sys.unraisablehook = _ignored
    try:
        _answer(_stop)
        from l2m import cli

        status = cli.main(signals=_received)
        _answer(signal.SIG_IGN)  # all is done and said: Python may end in peace
        return status
    except BaseException:  # whatever it was that the signal broke off
        if not _received:
            raise
        _answer(signal.SIG_IGN)
        said = _KEPT.get(" ".join(sys.argv[1:2]), "what was there before is untouched.")
        with suppress(OSError, ValueError):  # it may be full, or closed
            print(f"\nl2m: stopped; {said}", file=sys.stderr, flush=True)
        os._exit(128 + _received[0])  # threads that wait for a server are not waited for
    finally:
        if signal.getsignal(signal.SIGTERM) is _stop:  # after an error that is ours
            _answer(signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
