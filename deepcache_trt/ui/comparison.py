"""One comparison of the page: what is asked for, the pictures as they come, and what they are worth."""

import html
import json
import math
import queue
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deepcache_trt.documents import parsed
from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.runtime.plan import FULL, SKIP
from deepcache_trt.runtime.policies import Adaptive, DeepCache, Policy, Uncached
from deepcache_trt.runtime.policies.policy import policy_from_json
from deepcache_trt.serving.painter import Painted, Painter
from deepcache_trt.serving.wanted import Limits, Wanted

# As the page offers them.
POLICIES = ("DeepCache", "Adaptive", "Uncached", "a plan file")
FORECASTS = ("none", "taylor1")

# Of the strip: by what a call ran.
_COLORS = {"full": "#1a5fb4", "cached": "#8ff0a4", "skipped": "#f6d32d", "": "#c0bfbc"}

_DIFFERENCE = 8  # times as large as it is, so that it can be seen
_SIDE = 256  # pixels: smaller pictures are shown larger


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the page says."""

    model: str
    prompt: str
    negative_prompt: str = ""
    steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    size: str = ""
    policy_name: str = POLICIES[0]
    interval: int = 3
    branch: int = 0
    forecast: str = FORECASTS[0]
    plan: str = ""

    def policy(self) -> Policy:
        """How to cache.

        Raises:
            DeepCacheError: a plan file that is none.
        """
        forecast = None if self.forecast == FORECASTS[0] else self.forecast
        if self.policy_name == "Uncached":
            return Uncached()
        if self.policy_name == "Adaptive":
            return Adaptive(threshold=0.1, forecast=forecast)
        if self.policy_name == POLICIES[-1]:
            try:
                said = parsed(self.plan)
            except ValueError as error:
                raise DeepCacheError(f"the plan file is no JSON: {first_line(error)}; paste one here") from error
            if not isinstance(said, dict):
                raise DeepCacheError("the plan file is no JSON object; paste one here")
            return policy_from_json({name: value for name, value in said.items() if name != "about"})
        return DeepCache(cache_interval=self.interval, cache_branch_id=self.branch, forecast=forecast)

    def wanted(self) -> Wanted:
        """The picture.

        Raises:
            DeepCacheError: what cannot be drawn.
        """
        from deepcache_trt.serving.wanted import sides

        height, width = sides(self.size or None)
        wanted = Wanted(
            model=self.model,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            height=height,
            width=width,
            policy=self.policy(),
        )
        wanted.check(Limits())
        return wanted

    def as_plan(self) -> str:
        """A plan file."""
        return json.dumps(self.policy().to_json(), indent=2)

    def as_python(self) -> str:
        """The same in Python."""
        said = self.policy().to_json()
        given = {name: value for name, value in said.items() if name != "policy" and value is not None}
        policy = f"{type(self.policy()).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"
        height, width = self.wanted().height, self.wanted().width
        size = "" if height is None else f"    height={height},\n    width={width},\n"
        negative = f"    negative_prompt={self.negative_prompt!r},\n" if self.negative_prompt else ""
        return (
            "import torch\n\nfrom deepcache_trt import DeepCachePipeline\n"
            f"from deepcache_trt.runtime.policies import {type(self.policy()).__name__}\n\n"
            f"pipe = DeepCachePipeline.from_pretrained({self.model!r}, policy={policy})\n"
            f"image = pipe(\n    {self.prompt!r},\n{negative}{size}    num_inference_steps={self.steps},\n"
            f"    guidance_scale={self.guidance:g},\n    generator=torch.Generator().manual_seed({self.seed}),\n"
            ").images[0]\n"
        )

    def as_command(self) -> str:
        """The same on the command line."""
        words = ["deepcache-trt", "generate", self.prompt, "--model", self.model, "--steps", self.steps]
        words += ["--guidance", f"{self.guidance:g}", "--seed", self.seed]
        wanted = self.wanted()
        if self.negative_prompt:
            words += ["--negative", self.negative_prompt]
        if wanted.height is not None:
            words += ["--height", wanted.height, "--width", wanted.width]
        if isinstance(wanted.policy, DeepCache) and self.policy_name == POLICIES[0]:
            words += ["--interval", self.interval, "--branch", self.branch]
            words += [] if self.forecast == FORECASTS[0] else ["--forecast", self.forecast]
        else:
            words += ["--plan", "plan.json"]
        return shlex.join(map(str, words))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows at a moment.

    Attributes:
        strip: the calls of the denoiser, as HTML.
        plain: by diffusers; None: not drawn yet.
        cached: likewise.
        plain_words: about it.
        cached_words: likewise.
        difference: of both, larger than it is.
        fidelity: in words.
    """

    strip: str = ""
    plain: Image.Image | None = None
    cached: Image.Image | None = None
    plain_words: str = "plain"
    cached_words: str = "cached"
    difference: Image.Image | None = None
    fidelity: str = "difference"


def compare(painter: Painter, asked: Asked) -> Iterator[Shown]:
    """Draw cached, then plain, and tell how far it is on the way.

    Raises:
        DeepCacheError: what is asked for cannot be drawn.
    """
    wanted = asked.wanted()
    kinds = [_kind(variant) for variant in wanted.policy.plan(wanted.steps).variants]
    cached = None
    for step in _followed(painter, wanted, is_plain=False):
        if isinstance(step, Painted):
            cached = step
        else:
            yield Shown(strip=strip(kinds, step, "cached"))
    assert cached is not None
    words = f"cached: {cached.seconds:.2f} s, {_in_words(cached.calls)}"
    plain = None
    for step in _followed(painter, wanted, is_plain=True):
        if isinstance(step, Painted):
            plain = step
        else:
            shown = strip(["full"] * wanted.steps, step, "plain")
            yield Shown(strip=shown, cached=_large(cached.image), cached_words=words)
    assert plain is not None
    one, other = (np.asarray(each.image, dtype=np.float64) for each in (plain, cached))
    mse = float(np.mean((one - other) ** 2))
    decibels = "nothing differs" if mse == 0 else f"PSNR {10 * math.log10(255**2 / mse):.1f} dB"
    difference = (np.abs(one - other) * _DIFFERENCE).clip(0, 255).astype(np.uint8)
    yield Shown(
        strip=strip(kinds, len(kinds), "cached"),
        plain=_large(plain.image),
        cached=_large(cached.image),
        plain_words=f"plain diffusers: {plain.seconds:.2f} s",
        cached_words=f"{words}; {plain.seconds / cached.seconds:.1f}× as fast",
        difference=_large(Image.fromarray(difference)),
        fidelity=f"difference × {_DIFFERENCE}: {decibels}",
    )


def _large(image: Image.Image) -> Image.Image:
    times = max(1, _SIDE // max(image.size))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)


def _followed(painter: Painter, wanted: Wanted, *, is_plain: bool) -> Iterator[int | Painted]:
    """Steps as they are done, and then the picture."""
    told = queue.Queue[int | Painted | BaseException]()

    def work() -> None:
        try:
            told.put(painter.paint([wanted], lambda done, total: told.put(done), is_plain=is_plain)[0])
        except BaseException as error:
            told.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        step = told.get()
        if isinstance(step, BaseException):
            raise step
        yield step
        if isinstance(step, Painted):
            return


def strip(kinds: Sequence[str], done: int, name: str) -> str:
    """The calls as squares, those that are done in the color of their kind."""
    squares = "".join(
        f'<span class="call {kind if i < done else ""}" title="{i + 1}: {kind}" style="display:inline-block;width:10px;'
        f'height:18px;margin:1px;background:{_COLORS[kind if i < done else ""]}"></span>'
        for i, kind in enumerate(kinds)
    )
    legend = " ".join(f'<span style="color:{_COLORS[kind]}">■</span> {kind}' for kind in ("full", "cached", "skipped"))
    return f'<div class="strip">{html.escape(name)} {min(done, len(kinds))}/{len(kinds)}<br>{squares}<br>{legend}</div>'


def _kind(variant: str) -> str:
    return {FULL: "full", SKIP: "skipped"}.get(variant, "cached")


def _in_words(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in calls.items() if count)
