# shim: removed when the redesign is merged
from qalign_core.cost import Sizes as Geometry
from qalign_core.cost import base_sizes as base_geometry
