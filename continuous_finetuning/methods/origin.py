"""origin: the rope as it is (RoFormer, arXiv 2104.09864, eq. 15). The control row of the study.

angle(m, j) = m * theta^(-2j/d). Fine-tuned at the longer length, or not at all, with no change to the model.
"""

from methods import ContextExtension


class Method(ContextExtension):
    pass
