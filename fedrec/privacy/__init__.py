"""User-level differential privacy as mathematics: clipping, noise, accounting and the printed guarantee.

Nothing here knows what a method computes or where it runs. In the order of a run: a `Schedule` says what will be
released, `calibrate` how much noise that takes, `scales` clips, a mechanism makes the noise, the `Ledger` sees every
release, and the `Guarantee` says what was promised. Secure sums (`fixed_point`, `secure_sum`, `secure_round`) and the
noise that devices add under their masks (`discrete`) are imported by name.
"""

from fedrec.privacy.accounting import Accountant, Draws, effective_noise_multiplier, epsilon
from fedrec.privacy.clipping import (
    BIT,
    BIT_CLIP,
    AdaptiveClipConfig,
    Clip,
    Part,
    bit_of,
    scales,
    scales_by_table,
)
from fedrec.privacy.continual import ContinualConfig, CorrelatedNoise, Correlation
from fedrec.privacy.guarantee import Guarantee, Randomness, Trust, Unit, check_delta
from fedrec.privacy.ledger import Ledger, Release, counted_rate, cycle_of
from fedrec.privacy.mechanisms import (
    Gaussian,
    Mechanism,
    NoiseSource,
    SecretNoise,
    SeededNoise,
    SystemNoise,
    UniformSource,
)
from fedrec.privacy.schedule import PlannedRelease, Schedule, calibrate
from fedrec.privacy.target import PrivacyConfig

__all__ = [
    "BIT",
    "BIT_CLIP",
    "Accountant",
    "AdaptiveClipConfig",
    "Clip",
    "ContinualConfig",
    "CorrelatedNoise",
    "Correlation",
    "Draws",
    "Gaussian",
    "Guarantee",
    "Ledger",
    "Mechanism",
    "NoiseSource",
    "Part",
    "PlannedRelease",
    "PrivacyConfig",
    "Randomness",
    "Release",
    "Schedule",
    "SecretNoise",
    "SeededNoise",
    "SystemNoise",
    "Trust",
    "UniformSource",
    "Unit",
    "bit_of",
    "calibrate",
    "check_delta",
    "counted_rate",
    "cycle_of",
    "effective_noise_multiplier",
    "epsilon",
    "scales",
    "scales_by_table",
]
