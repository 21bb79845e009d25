"""Policies: how a model is cached. One file each."""

from deepcache_trt.runtime.policies.adaptive import Adaptive
from deepcache_trt.runtime.policies.deepcache import DeepCache
from deepcache_trt.runtime.policies.fixed import Fixed
from deepcache_trt.runtime.policies.policy import Policy
from deepcache_trt.runtime.policies.router import Router
from deepcache_trt.runtime.policies.uncached import Uncached

__all__ = ["Adaptive", "DeepCache", "Fixed", "Policy", "Router", "Uncached"]
