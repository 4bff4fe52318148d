"""Papers: their published numbers as data, their experiments as code."""

from redoubtable.papers import dropping_pixels as _dropping_pixels  # noqa: F401  (it registers)
from redoubtable.papers import mvm as _mvm  # noqa: F401
from redoubtable.papers.frame import PAPERS as PAPERS
from redoubtable.papers.frame import Experiment as Experiment
from redoubtable.papers.frame import Paper as Paper
from redoubtable.papers.frame import Published as Published
from redoubtable.papers.frame import Row as Row
from redoubtable.papers.frame import Scale as Scale
from redoubtable.papers.running import reproduce as reproduce
