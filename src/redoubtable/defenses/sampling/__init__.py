"""Sampling units inside a network: MVM, SAP and dropout."""

from redoubtable.defenses.sampling.named import dropout as dropout
from redoubtable.defenses.sampling.named import mvm as mvm
from redoubtable.defenses.sampling.named import sap as sap
from redoubtable.defenses.sampling.placing import feature_maps as feature_maps
from redoubtable.defenses.sampling.sampled import Sampled as Sampled
from redoubtable.defenses.sampling.sampled import insert_units as insert_units
from redoubtable.defenses.sampling.sampled import remove_units as remove_units
from redoubtable.defenses.sampling.units import MVM as MVM
from redoubtable.defenses.sampling.units import SAP as SAP
from redoubtable.defenses.sampling.units import Dropout as Dropout
from redoubtable.defenses.sampling.units import Unit as Unit
