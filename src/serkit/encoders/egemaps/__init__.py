"""eGeMAPSv02, the extended Geneva minimalistic acoustic parameter set (Eyben et al. 2016), without openSMILE.

Own implementation in NumPy of the published set, in agreement with openSMILE's, oddities included: see
``docs/egemaps.md`` for how close, descriptor by descriptor.
"""

from serkit.encoders.egemaps.contours import LLD_NAMES, low_level_descriptors
from serkit.encoders.egemaps.encoder import FunctionalEncoder, LowLevelEncoder
from serkit.encoders.egemaps.functionals import FUNCTIONAL_NAMES, functionals

__all__ = [
    "FUNCTIONAL_NAMES",
    "LLD_NAMES",
    "FunctionalEncoder",
    "LowLevelEncoder",
    "functionals",
    "low_level_descriptors",
]
