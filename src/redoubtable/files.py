"""Files that are either whole or not there: atomic writes, sealed contents, digests."""

import hashlib
import inspect
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

_SEAL = b"redoubtable-sealed-1\n"
_MODULE = frozenset(vars(nn.Module()))
"""What every module has: hooks and flags, some of them named by where they lie in memory."""
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
            f"cannot write to the folder {folder} ({error.strerror or error}); choose another --out"
        ) from None
    return folder


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
    """Return a SHA-256 (first 16 hex digits) of the source of functions and classes.

    What has no source to read, as a function typed into a console, counts by its name.
    """
    texts = []
    for one in objects:
        try:
            texts.append(inspect.getsource(one))  # type: ignore[arg-type]
        except (OSError, TypeError):
            texts.append(getattr(one, "__qualname__", repr(type(one))))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _placeless(text: str) -> str:
    """A `repr` without the places in memory that objects without one of their own put into it."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def digest_model(model: nn.Module) -> str:
    """Return a SHA-256 (first 16 hex digits) of all that a model computes with.

    Its structure, the source of its classes, plain attributes such as a rate, parameters, and
    buffers, those too that are not saved.
    """
    total = hashlib.sha256(_placeless(repr(model)).encode())
    for name, module in model.named_modules():
        own = {k: v for k, v in sorted(vars(module).items()) if k not in _MODULE}
        plain = {k: v for k, v in own.items() if isinstance(v, _PLAIN)}
        total.update(_placeless(f"{name} {type(module).__qualname__} {plain}").encode())
        tensors = {**module._parameters, **module._buffers}
        tensors |= {k: v for k, v in own.items() if isinstance(v, torch.Tensor)}
        for key, value in sorted(tensors.items()):
            total.update(f"{key} {'' if value is None else digest_tensors(value)}".encode())
    classes = dict.fromkeys(type(m) for m in model.modules())
    ours = [c for c in classes if not c.__module__.startswith("torch.")]
    total.update(digest_code(*ours).encode())
    return total.hexdigest()[:16]
