"""The registry of certificates."""

from redoubtable.certification.frame import Randomisation
from redoubtable.registry import Registry

CERTIFICATES: Registry[type[Randomisation]] = Registry("certificate")
"""Each is registered with `norm`, in which its radius is, and `paper`; one whose radii are whole
numbers also with `whole=True`."""
