"""User-level differential privacy as mathematics: clipping, noise, accounting and the printed guarantee.

Nothing here knows what a method computes or where it runs. In the order of a run: a `Schedule` says what will be
released, `calibrate` how much noise that takes, `scales` clips, a mechanism makes the noise, the `Ledger` sees every
release, and the `Guarantee` says what was promised.
"""

from fedrec.privacy.accounting import Accountant, Draws, effective_noise_multiplier, epsilon
from fedrec.privacy.clipping import Clip, scales
from fedrec.privacy.guarantee import Guarantee, Randomness, check_delta
from fedrec.privacy.ledger import Ledger, Release, counted_rate
from fedrec.privacy.mechanisms import Gaussian, Mechanism, NoiseSource, SeededNoise, SystemNoise
from fedrec.privacy.schedule import PlannedRelease, Schedule, calibrate
from fedrec.privacy.target import PrivacyConfig

__all__ = [
    "Accountant",
    "Clip",
    "Draws",
    "Gaussian",
    "Guarantee",
    "Ledger",
    "Mechanism",
    "NoiseSource",
    "PlannedRelease",
    "PrivacyConfig",
    "Randomness",
    "Release",
    "Schedule",
    "SeededNoise",
    "SystemNoise",
    "calibrate",
    "check_delta",
    "counted_rate",
    "effective_noise_multiplier",
    "epsilon",
    "scales",
]
