"""Detectors: scores of suspicion, thresholds fitted on clean images, models that may abstain."""

from redoubtable.detectors.mc_dropout import DropoutVariance as DropoutVariance
from redoubtable.detectors.mc_dropout import OwnDropout as OwnDropout
from redoubtable.detectors.rejecting import Rejecting as Rejecting
from redoubtable.detectors.rejecting import calibrate as calibrate
from redoubtable.detectors.scores import SCORES as SCORES
from redoubtable.detectors.scores import Entropy as Entropy
from redoubtable.detectors.scores import Score as Score
from redoubtable.detectors.scores import histogram_entropy as histogram_entropy
from redoubtable.detectors.thresholds import Threshold as Threshold
from redoubtable.detectors.thresholds import by_accuracy_loss as by_accuracy_loss
from redoubtable.detectors.thresholds import by_false_positives as by_false_positives
