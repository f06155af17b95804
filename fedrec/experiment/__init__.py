"""Experiments: what was asked, doing it, and the directory that everything shown is made from."""

from fedrec.experiment.arms import ArmConfig, MethodConfig, method_class, methods
from fedrec.experiment.attacks import AttackConfig
from fedrec.experiment.config import ExperimentConfig, read_config
from fedrec.experiment.fitting import build_arm
from fedrec.experiment.runner import Progress, Step, default_folder, resume, run
from fedrec.experiment.store import ArmDirectory, FileCheckpoints, Result, RunDirectory

__all__ = [
    "ArmConfig",
    "ArmDirectory",
    "AttackConfig",
    "ExperimentConfig",
    "FileCheckpoints",
    "MethodConfig",
    "Progress",
    "Result",
    "RunDirectory",
    "Step",
    "build_arm",
    "default_folder",
    "method_class",
    "methods",
    "read_config",
    "resume",
    "run",
]
