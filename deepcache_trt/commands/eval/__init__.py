"""Judge pictures: cached ones beside uncached ones, or many by their distribution."""

from deepcache_trt.commands.eval.comparison import eval

__all__ = ["eval"]
