"""Certificates: radii within which a randomised model's answer provably stays the same."""

from redoubtable.certification.ablation import Ablation as Ablation
from redoubtable.certification.frame import ABSTAIN as ABSTAIN
from redoubtable.certification.frame import Certificate as Certificate
from redoubtable.certification.frame import Randomisation as Randomisation
from redoubtable.certification.frame import best_bound as best_bound
from redoubtable.certification.frame import certify as certify
from redoubtable.certification.frame import guarantee as guarantee
from redoubtable.certification.frame import largest_radius as largest_radius
from redoubtable.certification.frame import predict as predict
from redoubtable.certification.registry import CERTIFICATES as CERTIFICATES
from redoubtable.certification.smoothing import Smoothing as Smoothing
