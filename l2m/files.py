"""Files: where the project keeps them, how they are written whole, and what identifies them.

Whatever is stored goes by all that made it, and carries the sha256 of its bytes, which is checked
before anything of it is used. What is found damaged is a `DamagedFile`, or is made again:

    stored               goes by                                           its bytes by
    recorded result      parameters, with fingerprints of data and models  its .json, by a digest
    cached result        the same, and l2m's version                       the same; made again
    scores' shard        windows, settings and all of the model, a digest  its name
                         of which is in the shard; `manifest.json` says it
    token file           the corpora's texts, titles and authors (of own   its manifest
                         files: all bytes), all that a tokenizer does
    vocabulary           the corpus as of a token file, size               its manifest
    checkpoint           settings, model, first weights, task              its name; the one before
    tables of a run      its fields and its data, or a digest of them      its manifest; made again
    de-quantised model   the sha256 of its GGUF file                       its manifest
    table of an archive  name, and the texts that are pinned               its name; made again

A manifest is `manifest.json`, written last (`seal`): what the folder holds, the sha256 of each
file, and a digest of itself. A name that ends in a sha256 says what must be in the file (`intact`).
"""

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parent.parent  # of a checkout; else the folder of the packages
DAY = 86_400  # seconds, after which a file that was not renamed is one that was left behind
_LEASH = "L2M_LEASH"
# What a disk says of a write, and a network never does.
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED |= {errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


class DamagedFile(RuntimeError):
    """A stored file that is not what was written; the message names it and the cure."""


class CannotWrite(RuntimeError):
    """A file that the disk does not take; the message names it and the cure."""


@contextmanager
def writing(path: str | Path):
    """Within a ``with``, CannotWrite if the disk does not take what is written to `path`."""
    try:
        yield
    except Exception as error:  # libraries in Rust have no class for it
        rust = re.search(r"\(os error (\d+)\)", str(error))
        number = int(rust[1]) if rust else getattr(error, "errno", None)
        if isinstance(error, CannotWrite) or number not in _REFUSED:
            raise
        cure = "make room, or let it be written; what was finished before is kept, and used"
        raise CannotWrite(f"cannot write {path} ({os.strerror(number)}): {cure}") from error


def cache_dir() -> Path:
    """Return the cache folder: ``L2M_CACHE``, or the checkout's ``.cache``, or ``~/.cache/l2m``."""
    if given := os.environ.get("L2M_CACHE"):
        return Path(given).expanduser()
    return ROOT / ".cache" if (ROOT / "pyproject.toml").exists() else Path.home() / ".cache/l2m"


def write_atomic(path: str | Path, content: bytes | str | Callable, hashed: bool = False) -> Path:
    """Write a file whole or not at all, to a temporary name beside it, then renamed; its path.

    Its folder is made if missing. `content` may be a function that writes to the path that it is
    given. If it is to be `hashed`, its name, ``a.bin``, becomes ``a-<sha256>.bin``. CannotWrite if
    the disk is full, or may not be written to.
    """
    path, writer = Path(path), f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".tmp-{writer}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".tmp-*"):
            with suppress(OSError):  # another process was faster
                if _abandoned(left):
                    left.unlink()
        try:
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
            if hashed:
                path = path.with_stem(f"{path.stem}-{sha256(temporary)}")
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _abandoned(temporary: Path) -> bool:
    """Whether who wrote a temporary file was killed: a process of this machine, or a day ago."""
    own = re.match(rf"\.tmp-{_machine()}-(\d{{1,9}})-", temporary.name)
    if own and os.name == "posix":
        try:
            os.kill(int(own[1]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it lives, as somebody else's
    return time.time() - temporary.stat().st_mtime > DAY


@cache
def _machine() -> str:
    """What tells this machine, or container, from others: where ids of processes are its own."""
    with suppress(OSError):
        return digest(platform.node(), os.readlink("/proc/self/ns/pid"))[:8]
    return digest(platform.node())[:8]


def intact(path: str | Path) -> bool:
    """Whether a file that was written `hashed` has the bytes that its name says."""
    return Path(path).stem.rpartition("-")[2] == sha256(path)


def write_json(path: str | Path, content: dict) -> None:
    """Write what JSON can hold, with a digest of itself."""
    content = as_json(content)
    text = json.dumps(content | {"digest": digest(content)}, indent=2, ensure_ascii=False)
    write_atomic(path, text + "\n")


def read_json(path: str | Path, cure: str) -> dict:
    """Read a file of `write_json`; DamagedFile, naming the cure, if it is not what was written."""
    with suppress(ValueError, AttributeError, TypeError, KeyError, RecursionError):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.pop("digest") == digest(content):
            return content
    raise DamagedFile(f"{path} is damaged, or of another version of l2m: {cure}")


def seal(folder: Path, schema: str, about: dict, names=()) -> None:
    """Write the manifest of a complete folder: its kind and version, what it is, its files."""
    hashes = {name: sha256(folder / name) for name in names}
    write_json(folder / "manifest.json", {"schema": schema, **about, "sha256": hashes})


def opened(folder: str | Path, schema: str, cure: str) -> dict:
    """Return the manifest of a sealed folder, once all its files are what they were.

    FileNotFoundError if it is not sealed, DamagedFile, naming the cure, if it is not what it was.
    """
    path = Path(folder) / "manifest.json"
    manifest = read_json(path, cure)
    if manifest.get("schema") != schema:
        raise DamagedFile(f"{path} is of another version of l2m, not {schema!r}: {cure}")
    for name, expected in manifest["sha256"].items():
        file = path.with_name(name)
        if not file.is_file() or sha256(file) != expected:
            raise DamagedFile(f"{file} is damaged (its sha256 is not the manifest's): {cure}")
    return manifest


def made(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return a sealed folder of the cache; where there is none, one process makes it, others wait.

    `fill` fills and seals ``<folder>.partial``, in which a process that was killed may have left
    something; then that is renamed. CannotWrite as of `write_atomic`.
    """
    if not (folder / "manifest.json").exists():
        with held(folder, wait=True), writing(folder):
            if not (folder / "manifest.json").exists():
                partial = folder.with_name(f"{folder.name}.partial")
                fill(partial)
                shutil.rmtree(folder, ignore_errors=True)  # of an older version
                partial.replace(folder)
    return folder


def sha256(path: str | Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: str | Path, files) -> str:
    """Return one sha256 of some files of a folder, and of their places in it."""
    return digest([[file.relative_to(folder).as_posix(), sha256(file)] for file in sorted(files)])


def as_json(value, **options):
    """Return a value as it comes back from JSON: arrays as lists, what JSON lacks as text."""
    options["default"] = lambda other: other.tolist() if hasattr(other, "tolist") else str(other)
    return json.loads(json.dumps(value, **options))


def digest(*parts) -> str:
    """Return one sha256 of several things: bytes, arrays, or what JSON can hold; else TypeError."""
    total = hashlib.sha256()
    for part in parts:
        if hasattr(part, "tobytes") and not part.dtype.hasobject:  # an array
            total.update(f"{part.dtype}{part.shape}".encode())
            part = part.tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True).encode()
        total.update(f"{len(part)}:".encode() + part)
    return total.hexdigest()


def meant(name: str, known) -> str:
    """Return " Did you mean …?" of a name that is not among the known ones; "" if none is close."""
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def leash() -> dict:
    """Options of a `Popen` of what calls `leashed`: it ends when this process does, killed or not.

    What holds it is the other end of its standard input.
    """
    return {"stdin": subprocess.PIPE, "env": os.environ | {_LEASH: "1"}}


def leashed() -> None:
    """End as of SIGTERM when the process ends that started this one with a `leash`, if one did."""

    def wait():
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.pop(_LEASH, ""):  # what this one starts is on no leash
        threading.Thread(target=wait, daemon=True).start()


def held(path: str | Path, wanted: bool = True, wait: bool = False) -> AbstractContextManager:
    """Hold the lock beside `path` within a ``with``, so that only one process writes it.

    Not `wanted`, there is no lock, as for the further processes of a `torchrun`. Who holds it may
    take it again. If another thread or process holds it, `wait` until it lets go, or raise a
    RuntimeError. CannotWrite as of `write_atomic`.
    """
    if not wanted:
        return nullcontext()
    try:
        with writing(f"{path}.lock"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{path}.lock", is_singleton=True)
            return lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        cure = "wait for it, or name another folder"
        raise RuntimeError(f"another run is using {path}: {cure}") from None
    except NotImplementedError:
        cure = "name a folder on another one, say with L2M_CACHE"
        raise RuntimeError(f"the disk of {path} has no locks: {cure}") from None
