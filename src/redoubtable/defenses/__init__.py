"""Defenses: input transforms and whole-model wrappers, each with its facts stated."""

from redoubtable.defenses.mvm import mvm_probabilities as mvm_probabilities
from redoubtable.defenses.randomising import GaussianNoise as GaussianNoise
from redoubtable.defenses.randomising import RandomResizePad as RandomResizePad
from redoubtable.defenses.registry import DEFENSES as DEFENSES
from redoubtable.defenses.sampling import MVM as MVM
from redoubtable.defenses.sampling import SAP as SAP
from redoubtable.defenses.sampling import Dropout as Dropout
from redoubtable.defenses.sampling import Sampled as Sampled
from redoubtable.defenses.sampling import insert_units as insert_units
from redoubtable.defenses.sampling import remove_units as remove_units
from redoubtable.defenses.squeezing import JPEG as JPEG
from redoubtable.defenses.squeezing import BitDepth as BitDepth
from redoubtable.defenses.squeezing import MedianFilter as MedianFilter
from redoubtable.defenses.subsampling import Subsample as Subsample
from redoubtable.defenses.subsampling import subsample as subsample
from redoubtable.defenses.temperature import Temperature as Temperature
from redoubtable.defenses.transforms import InputTransform as InputTransform
from redoubtable.defenses.voting import Vote as Vote
