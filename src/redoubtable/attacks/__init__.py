"""Attacks: functions of one form, registered with their facts."""

from redoubtable.attacks.apgd import apgd as apgd
from redoubtable.attacks.apgd_targeted import apgd_targeted as apgd_targeted
from redoubtable.attacks.bim import bim as bim
from redoubtable.attacks.carlini_wagner import carlini_wagner as carlini_wagner
from redoubtable.attacks.deepfool import deepfool as deepfool
from redoubtable.attacks.corner_search import corner_search as corner_search
from redoubtable.attacks.fab import fab as fab
from redoubtable.attacks.fab import fab_targeted as fab_targeted
from redoubtable.attacks.fgsm import fgsm as fgsm
from redoubtable.attacks.hop_skip_jump import hop_skip_jump as hop_skip_jump
from redoubtable.attacks.iterative_l2 import iterative_l2 as iterative_l2
from redoubtable.attacks.jsma import jsma as jsma
from redoubtable.attacks.l0_pgd import l0_pgd as l0_pgd
from redoubtable.attacks.lean import lean as lean
from redoubtable.attacks.multi_targeted import multi_targeted as multi_targeted
from redoubtable.attacks.noise import noise as noise
from redoubtable.attacks.one_pixel import one_pixel as one_pixel
from redoubtable.attacks.pgd import pgd as pgd
from redoubtable.attacks.pgd0 import pgd0 as pgd0
from redoubtable.attacks.registry import ARGUMENTS as ARGUMENTS
from redoubtable.attacks.registry import ATTACKS as ATTACKS
from redoubtable.attacks.registry import Attack as Attack
from redoubtable.attacks.registry import check_threat as check_threat
from redoubtable.attacks.sparse_rs import sparse_rs as sparse_rs
from redoubtable.attacks.square import square as square
