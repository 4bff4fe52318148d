"""Files that are either whole or not there: atomic writes, sealed contents, locks, digests."""

import errno
import hashlib
import inspect
import io
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

try:
    import fcntl
except ImportError:  # a platform without it
    fcntl = None  # type: ignore[assignment]

_SEAL = b"redoubtable-sealed-1\n"
_LOCK = ".lock"
_HELD: dict[Path, str] = {}
"""Folders that this process holds: its own second lock the system would grant, and then drop."""
_MODULE = frozenset(vars(nn.Module()))
"""What every module has: hooks and flags, some of them named by where they lie in memory."""
_NOT_OURS = ("torch", "builtins", "abc", "typing")
_PLAIN = (bool, int, float, str, tuple, list, dict, type(None))


def make_folder(folder: Path) -> Path:
    """Create `folder` if need be and make sure that it can be written to.

    Raises:
        ValueError: it can't be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to the folder {folder} ({error.strerror or error}); choose another one"
        ) from None
    return folder


def file_name(text: str) -> str:
    """Return a text as the name of a file or folder: what is special somewhere is a dash."""
    return "".join(c if c.isalnum() or c in "._=-" else "-" for c in text)


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder within a block, so that no second process works in it.

    An advisory lock on a file `.lock` in it, which the system takes back when the process ends,
    however it ends; a file that a kill left behind holds nothing. Where the platform or the file
    system has no such locks, nothing is held.

    Args:
        folder: made if need be.
        doing: what is done in it, for whoever comes second: "training".

    Raises:
        ValueError: another process holds it, or another block in this one.
    """
    path = make_folder(folder).resolve() / _LOCK
    mine = f"the {doing} of process {os.getpid()} on {platform.node()}"
    if path.parent in _HELD:
        raise _is_held(path.parent, _HELD[path.parent])
    try:
        handle = _lock(path, mine)
    except _HeldError as error:
        raise _is_held(path.parent, str(error)) from None
    _HELD[path.parent] = mine
    try:
        yield
    finally:
        del _HELD[path.parent]
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claim, for a block, the making of a file, among the processes that could make it.

    The claim is a lock on a file `NAME.claim` beside it, so that of a process that is killed is
    free at once. Where the platform or the file system has no locks, every process gets it.

    Args:
        path: what will be made, in a folder that is there.

    Yields:
        Whether this process has the claim; if not, another one has it.
    """
    claim = path.with_name(path.name + ".claim")
    try:
        handle = _lock(claim, f"process {os.getpid()} on {platform.node()}")
    except _HeldError:
        yield False
        return
    try:
        yield True
    finally:
        if handle is not None:
            claim.unlink(missing_ok=True)
            os.close(handle)


class _HeldError(Exception):
    """Another process holds a lock; the text says which."""


def _lock(path: Path, mine: str) -> int | None:
    """Return the open file that holds the lock and says whose it is; None where are no locks.

    Raises:
        _HeldError: another process holds it.
        ValueError: the file can't be written.
    """
    while fcntl is not None:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"cannot write to {path} ({error.strerror})") from None
        try:
            # Of the process, not of the open file: workers that outlive a kill must not hold it.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _HeldError(holder or "another process") from None
            path.unlink(missing_ok=True)
            return None
        if _is_at(path, handle):
            with suppress(OSError):  # a full disk keeps nobody from holding it
                os.truncate(handle, 0)
                os.write(handle, mine.encode())
            return handle
        os.close(handle)  # whoever held it has taken the file away since: it locks nothing
    return None


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file is the one that stands there."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _is_held(folder: Path, holder: str) -> ValueError:
    return ValueError(
        f"{folder} is in use by {holder}; wait until that has ended, or choose another --out"
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, also after a crash, sees all of it or the one before."""
    make_folder(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, sort_keys=False, allow_nan=False, ensure_ascii=False)
    # The name of a file or class may hold bytes that are no UTF-8: JSON has an escape for them.
    write_bytes(path, (text + "\n").encode("utf-8", "backslashreplace"))


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as one compressed `.npz`, whole or not at all; replaces the file."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is missing or damaged; `what` says in the message what it should be.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no {what} at {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the {what} at {path} is damaged ({error})") from None


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file with its own SHA-256 in front, so that damage is noticed when it is read."""
    write_bytes(path, _SEAL + hashlib.sha256(content).digest() + content)


def read_sealed(path: Path, what: str) -> bytes:
    """Read a file that `write_sealed` wrote.

    Raises:
        ValueError: the file is missing, cut short or changed.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the {what} at {path} ({error.strerror})") from None
    head = len(_SEAL) + 32
    if raw[: len(_SEAL)] != _SEAL or hashlib.sha256(raw[head:]).digest() != raw[head - 32 : head]:
        raise ValueError(f"the {what} at {path} is damaged; delete it to compute it again")
    return raw[head:]


def digest_tensors(*tensors: torch.Tensor) -> str:
    """Return a SHA-256 (first 16 hex digits) of the values, shapes and types of tensors."""
    total = hashlib.sha256()
    for t in tensors:
        total.update(f"{t.dtype}{tuple(t.shape)}".encode())
        total.update(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def digest_code(*objects: object) -> str:
    """Return a SHA-256 (first 16 hex digits) of the source of functions, classes and modules.

    What has no source to read, as a function typed into a console, counts by its name.
    """
    texts = []
    for one in objects:
        try:
            texts.append(inspect.getsource(one))  # type: ignore[arg-type]
        except (OSError, TypeError):
            texts.append(getattr(one, "__qualname__", repr(type(one))))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@lru_cache
def digest_package(without: tuple[str, ...]) -> str:
    """Return a SHA-256 (first 16 hex digits) of the package's own sources, read once.

    Args:
        without: parts that don't count: folders and files, without `.py`, from the package's own.
    """
    root, total = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).with_suffix("").as_posix()
        if not any(name == part or name.startswith(f"{part}/") for part in without):
            total.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _placeless(text: str) -> str:
    """A `repr` without the places in memory that objects without one of their own put into it."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def digest_model(model: nn.Module) -> str:
    """Return a SHA-256 (first 16 hex digits) of all that a model computes with.

    Its structure, the source of its classes, plain attributes such as a rate, functions and
    dataclasses that it holds, parameters, and buffers, those too that are not saved. Of other
    objects, and of what a function takes from around it, nothing can be told.
    """
    total = hashlib.sha256(_placeless(repr(model)).encode())
    for name, module in model.named_modules():
        own = {k: v for k, v in sorted(vars(module).items()) if k not in _MODULE}
        plain = {k: v for k, v in own.items() if isinstance(v, _PLAIN)}
        total.update(_placeless(f"{name} {type(module).__qualname__} {plain}").encode())
        for key in sorted(own.keys() - plain.keys()):
            total.update(_told(key, own[key]).encode())
        tensors = {**module._parameters, **module._buffers}
        tensors |= {k: v for k, v in own.items() if isinstance(v, torch.Tensor)}
        for key, value in sorted(tensors.items()):
            total.update(f"{key} {'' if value is None else digest_tensors(value)}".encode())
    total.update(digest_code(*_own_classes(model)).encode())
    return total.hexdigest()[:16]


def _told(key: str, value: object) -> str:
    """What can be told of an attribute that is not plain; nothing of most objects."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: getattr(value, f.name) for f in fields(value)}
        told = (repr(v) if isinstance(v, _PLAIN) else _told(k, v) for k, v in sorted(inner.items()))
        return _placeless(f"{key} {type(value).__qualname__} {' '.join(told)}")
    if isinstance(value, partial):
        return _placeless(f"{_told(key, value.func)} {value.args} {value.keywords}")
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{key} {value.__module__} {value.__qualname__} {digest_code(value)}"
    return ""


def _own_classes(model: nn.Module) -> list[type[nn.Module]]:
    """The classes of a model that are not torch's."""
    classes = dict.fromkeys(type(m) for m in model.modules())
    return [c for c in classes if not c.__module__.startswith("torch.")]


def digest_source_files(*objects: object) -> str:
    """Return a SHA-256 (first 16 hex digits) of the files that functions and models come from.

    Of a model those of its classes and of what they inherit from, torch's left out. What a file
    imports doesn't count, everything else in it does.
    """
    parts: list[object] = []
    for one in objects:
        if isinstance(one, nn.Module):
            inherited = [base for c in _own_classes(one) for base in c.__mro__]
            parts += [b for b in inherited if b.__module__.split(".")[0] not in _NOT_OURS]
        else:
            parts.append(one)
    return digest_code(*dict.fromkeys(inspect.getmodule(p) or p for p in parts))
