"""Caching without engines, by hooks on the real model or by the DeepCache package.

What engines draw is compared with what these draw.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import DeepCache

from deepcache_trt.models.families.unet import unet_taps
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.runtime.policies import Policy


@contextmanager
def cached_by_hooks(
    unet: Any, is_full: Callable[[int], bool], *, branch: int = 0, replace: Callable[[Any], Any] | None = None
) -> Iterator[None]:
    """For one generation: every call computes all of `unet`, but those that are not full replace the tap's output.

    Args:
        unet: of a plain pipeline.
        is_full: of the position of a call, from 0 on.
        branch: DeepCache's k.
        replace: of what was kept, what a call that is not full gets instead; None: that itself.
    """
    call, kept = -1, None

    def begin(module: Any, args: Any) -> None:
        nonlocal call
        call += 1

    def keep_or_replace(module: Any, args: Any, output: Any) -> Any:
        nonlocal kept
        if is_full(call):
            kept = output
            return output
        return replace(kept) if replace else kept

    tap = unet.get_submodule(unet_taps(unet)[branch].path)
    handles = [unet.register_forward_pre_hook(begin), tap.register_forward_hook(keep_or_replace)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def cached_by_policy(model: Any, policy: Policy, calls: int) -> Iterator[None]:
    """For one generation of so many calls, none of them skipped: every call computes all of a denoiser.

    But what its variant consumes is replaced by what was last kept, or by what the line through the last two gives
    where the plan forecasts, and what it emits is kept.
    """
    taps = architecture_of(model, dtype="float32").taps
    variants = {variant.name: variant for variant in policy.variants([tap.name for tap in taps])}
    plan = policy.plan(calls)
    assert plan.forecast in (None, "taylor1")
    call, kept = -1, defaultdict[str, list[tuple[int, Any]]](list)  # the calls that gave a tap, and what they gave

    def begin(module: Any, args: Any) -> None:
        nonlocal call
        call += 1

    def keep_or_replace(name: str, module: Any, args: Any, output: Any) -> Any:
        variant = variants[plan.variants[call]]
        if name in variant.emits:
            kept[name].append((call, output))
        if name not in variant.consumes:
            return None
        *_, (last, value) = kept[name]
        if plan.forecast is None or len(kept[name]) == 1:
            return value
        before, earlier = kept[name][-2]
        return value + (value - earlier) * (call - last) / (last - before)

    handles = [model.register_forward_pre_hook(begin)]
    handles += [model.get_submodule(tap.path).register_forward_hook(partial(keep_or_replace, tap.name)) for tap in taps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def cached_by_package(pipe: Any, *, interval: int, branch: int = 0) -> Iterator[None]:
    """The DeepCache package's caching of a plain pipeline.

    Args:
        pipe: whose U-Net is as it was afterwards: the package leaves a `forward` behind on it.
        interval: one call in this many is full.
        branch: DeepCache's k.
    """
    own = {name: value for name, value in vars(pipe.unet).items() if name == "forward"}
    helper = DeepCache.DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()
        vars(pipe.unet).pop("forward", None)
        vars(pipe.unet).update(own)
