"""Matricised variance minimisation: with which probabilities rows of a matrix are sampled."""

from redoubtable.defenses.mvm.algorithm_2 import algorithm_2 as algorithm_2
from redoubtable.defenses.mvm.probabilities import SOLVERS as SOLVERS
from redoubtable.defenses.mvm.probabilities import check_draws as check_draws
from redoubtable.defenses.mvm.probabilities import keep_probabilities as keep_probabilities
from redoubtable.defenses.mvm.probabilities import mvm_probabilities as mvm_probabilities
from redoubtable.defenses.mvm.probabilities import solve as solve
from redoubtable.defenses.mvm.probabilities import variance as variance
from redoubtable.defenses.mvm.solver import bisection as bisection
from redoubtable.defenses.mvm.solver import exact as exact
from redoubtable.defenses.mvm.solver import gap as gap
from redoubtable.defenses.mvm.solver import large_c as large_c
from redoubtable.defenses.mvm.solver import square_root as square_root
