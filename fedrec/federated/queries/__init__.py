"""What may be asked of a device: the allow-list, complete.

Whoever reviews what leaves a device reads these modules, and nothing else.
"""

from fedrec.federated.queries.counting import Census, Count
from fedrec.federated.queries.evaluate import Evaluate
from fedrec.federated.queries.factor_training import FactorTraining
from fedrec.federated.queries.implicit_gradient import ImplicitGradient
from fedrec.federated.queries.least_squares import NormalEquations
from fedrec.federated.queries.local_training import LocalTraining
from fedrec.federated.queries.loss_gradient import LossGradient
from fedrec.federated.queries.measure import Measure
from fedrec.federated.queries.membership import Membership
from fedrec.federated.queries.neural_training import NeuralTraining
from fedrec.federated.queries.personal_training import PersonalTraining
from fedrec.federated.queries.propagation import Propagate
from fedrec.federated.queries.spectrum import Gram, Subspace

__all__ = [
    "Census",
    "Count",
    "Evaluate",
    "FactorTraining",
    "Gram",
    "ImplicitGradient",
    "LocalTraining",
    "LossGradient",
    "Measure",
    "Membership",
    "NeuralTraining",
    "NormalEquations",
    "PersonalTraining",
    "Propagate",
    "Subspace",
]
