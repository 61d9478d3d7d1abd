"""Train a small MNIST classifier, measure it, decide whether it may ship, and use it.

>>> from mnist import load, predict
>>> model = load()  # the newest model in models/ that passed the gate
>>> print(predict(model, "seven.png").label)
7
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Prediction", "load", "predict", "predict_all"]

if TYPE_CHECKING:
    from mnist.deploy.inference import Prediction as Prediction
    from mnist.deploy.inference import load as load
    from mnist.deploy.inference import predict as predict
    from mnist.deploy.inference import predict_all as predict_all


def __getattr__(name: str) -> Any:
    if name in __all__:  # import torch only on first use, because it takes seconds
        from mnist.deploy import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
