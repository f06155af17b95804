"""What an observer learns from answers: attacks, each with its success measured against chance, and an audit of ε."""

from fedrec.attacks.attack import ATTACKS, Attack, Finding, Target
from fedrec.attacks.attribute import Attribute, AttributeConfig
from fedrec.attacks.audit import Audit, AuditConfig, AuditResult
from fedrec.attacks.bounds import (
    best_one_run_bound,
    best_one_run_mu_bound,
    gaussian_epsilon,
    many_runs_bound,
    many_runs_mu_bound,
    one_run_bound,
    one_run_mass,
    one_run_mu_bound,
    one_run_p_value,
    rates_bound,
    rates_mu_bound,
)
from fedrec.attacks.history import History, HistoryConfig, area_under_curve, guess_history, share_read
from fedrec.attacks.interaction import Interaction, InteractionConfig, auc_with_error
from fedrec.attacks.observation import Observed, case_of, observe
from fedrec.attacks.poisoning import Poisoning, PoisoningConfig
from fedrec.attacks.reconstruction import Reconstruction, ReconstructionConfig, reconstruct
from fedrec.attacks.single_item import SingleItem, SingleItemConfig

__all__ = [
    "ATTACKS",
    "Attack",
    "Attribute",
    "AttributeConfig",
    "Audit",
    "AuditConfig",
    "AuditResult",
    "Finding",
    "History",
    "HistoryConfig",
    "Interaction",
    "InteractionConfig",
    "Observed",
    "Poisoning",
    "PoisoningConfig",
    "Reconstruction",
    "ReconstructionConfig",
    "SingleItem",
    "SingleItemConfig",
    "Target",
    "area_under_curve",
    "auc_with_error",
    "best_one_run_bound",
    "best_one_run_mu_bound",
    "case_of",
    "gaussian_epsilon",
    "guess_history",
    "many_runs_bound",
    "many_runs_mu_bound",
    "observe",
    "one_run_bound",
    "one_run_mass",
    "one_run_mu_bound",
    "one_run_p_value",
    "rates_bound",
    "rates_mu_bound",
    "reconstruct",
    "share_read",
]
