"""Files: where the project keeps them, how they are written whole, and what identifies them."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of a checkout; else the folder of the packages


def cache_dir() -> Path:
    """Return the cache folder: ``L2M_CACHE``, or the checkout's ``.cache``, or ``~/.cache/l2m``."""
    if os.environ.get("L2M_CACHE"):
        return Path(os.environ["L2M_CACHE"]).expanduser()
    checkout = (ROOT / "pyproject.toml").exists()
    return ROOT / ".cache" if checkout else Path.home() / ".cache" / "l2m"


def write_atomic(path: str | Path, content: bytes | str | Callable[[Path], object]) -> Path:
    """Write a file whole or not at all: to a temporary name beside it, then renamed.

    Its folder is made if missing. `content` may be a function that writes the file whose path it is
    given (a path with the same suffix, so that writers which look at it agree).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    try:
        if callable(content):
            content(temporary)
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def sha256(path: str | Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts) -> str:
    """Return one sha256 of several things: the identity of whatever is stored.

    Parts are bytes, arrays, or what JSON can hold (the order of keys does not count); TypeError for
    anything else.
    """
    total = hashlib.sha256()
    for part in parts:
        if hasattr(part, "tobytes"):  # an array
            total.update(f"{part.dtype}{part.shape}".encode())
            part = part.tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True).encode()
        total.update(f"{len(part)}:".encode() + part)
    return total.hexdigest()


@contextmanager
def held(path: str | Path, wanted: bool = True, wait: bool = False):
    """Hold the lock beside `path`, so that two processes do not write the same.

    Not `wanted`, it goes on without the lock, as further processes of a `torchrun` do. If another
    process holds it, `wait` until it lets go, or raise a RuntimeError.
    """
    if not wanted:
        yield
        return
    from filelock import FileLock, Timeout

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(f"{path}.lock").acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise RuntimeError(
            f"another run is using {path}: wait for it, or name another folder"
        ) from None
    with lock:
        yield
