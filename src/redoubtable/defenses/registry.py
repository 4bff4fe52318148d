"""The defenses by name."""

from collections.abc import Callable
from typing import Any

from redoubtable.registry import Registry

DEFENSES: Registry[Callable[..., Any]] = Registry("defense")
"""`form` says how an entry joins a model: "transform" stands in front of it, "wrapper" around it,
"rejecting" around it after calibration on clean images. `relus` says that it needs a network with
ReLUs before flattening."""
