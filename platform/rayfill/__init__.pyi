from .config.run import RunConfig as RunConfig
from .evaluation.evaluate import evaluate as evaluate
from .inference.load import load as load
from .runs.datasets import prepare as prepare
from .sweeps.sweep import sweep as sweep
