"""Train, evaluate and look at robust image classifiers: will they stay robust on unseen data?"""

from importlib import metadata

__version__ = metadata.version("robustscape")
