"""Defenses: input transforms and whole-model wrappers, each with its facts stated."""

from redoubtable.defenses.registry import DEFENSES as DEFENSES
from redoubtable.defenses.subsampling import Subsample as Subsample
from redoubtable.defenses.subsampling import subsample as subsample
from redoubtable.defenses.transforms import InputTransform as InputTransform
from redoubtable.defenses.voting import Vote as Vote
