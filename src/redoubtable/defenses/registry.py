"""The defenses by name."""

from redoubtable.parts import Part
from redoubtable.registry import Registry

DEFENSES: Registry[type[Part]] = Registry("defense")
"""`form` says how an entry joins a model: "transform" stands in front of it, "wrapper" around it,
"rejecting" around it after calibration on clean images."""
