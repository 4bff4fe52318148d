"""Evaluation: static and adaptive attacks side by side, with intervals and doubts."""

from redoubtable.evaluation.candidates import Settings as Settings
from redoubtable.evaluation.certify import Certified as Certified
from redoubtable.evaluation.certify import certified as certified
from redoubtable.evaluation.environment import environment as environment
from redoubtable.evaluation.evaluate import Evaluation as Evaluation
from redoubtable.evaluation.evaluate import evaluate as evaluate
from redoubtable.evaluation.guard import guarded as guarded
from redoubtable.evaluation.paired import compare_pair as compare_pair
from redoubtable.evaluation.paired import spread_of_seeds as spread_of_seeds
from redoubtable.evaluation.suites import SUITES as SUITES
from redoubtable.evaluation.suites import Suite as Suite
