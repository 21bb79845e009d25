"""What HTTP requests say, as pydantic reads them."""

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies import DeepCache, Policy
from deepcache_trt.runtime.policies.policy import policy_from_json
from deepcache_trt.serving.wanted import Limits, Wanted, sides


class ImagesBody(BaseModel):
    """Of `/v1/images/generations`, as OpenAI's clients send it.

    `seed` and `steps` go beyond that interface (`extra_body` of its client).
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    n: int | None = 1
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    quality: Literal["auto", "standard"] | None = None
    output_format: Literal["png"] | None = None
    background: Literal["auto"] | None = None
    moderation: Literal["auto", "low"] | None = None
    user: str | None = None
    seed: int | None = None
    steps: int | None = None

    def wanted(self, default: "Defaults", limits: Limits) -> list[Wanted]:
        """The pictures, which have seeds that count up."""
        height, width = sides(self.size)
        one = Wanted(
            model=self.model or default.model,
            prompt=self.prompt,
            seed=default.seed if self.seed is None else self.seed,
            steps=default.steps if self.steps is None else self.steps,
            height=height,
            width=width,
            policy=default.policy,
        )
        return _several(one, 1 if self.n is None else self.n, limits)


class GenerateBody(BaseModel):
    """Of `/v1/generate`: all that a pipeline takes."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    n: int = 1
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = Field(default=None, allow_inf_nan=False)
    size: str | None = Field(default=None, description="width x height in pixels, as 512x512")
    scheduler: str = Field(default="", description="of diffusers, as unipc or ddim,timestep_spacing=trailing")
    policy: dict[str, Any] | None = Field(default=None, description="as a plan file says it")
    interval: int | None = Field(default=None, description="of DeepCache, where no policy is given")
    branch: int | None = Field(default=None, description="likewise")
    forecast: str | None = Field(default=None, description="likewise: taylor1")
    adapters: dict[str, float] = Field(default={}, description="LoRAs of the server by name, with their weights")
    image: str | None = Field(default=None, description="base64 of a PNG or JPEG to begin with")
    strength: float = Field(default=0.8, allow_inf_nan=False)
    stream: bool = Field(default=False, description="answer with server-sent events: steps, then images")

    def wanted(self, default: "Defaults", limits: Limits) -> list[Wanted]:
        """The pictures, which have seeds that count up."""
        height, width = sides(self.size)
        one = Wanted(
            model=self.model or default.model,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=default.seed if self.seed is None else self.seed,
            steps=default.steps if self.steps is None else self.steps,
            guidance=self.guidance,
            height=height,
            width=width,
            scheduler=self.scheduler,
            policy=self._policy(default.policy),
            adapters=tuple(self.adapters.items()),
            image=None if self.image is None else _image(self.image, limits),
            strength=self.strength,
        )
        return _several(one, self.n, limits)

    def _policy(self, default: Policy) -> Policy:
        given = {"cache_interval": self.interval, "cache_branch_id": self.branch, "forecast": self.forecast}
        said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.policy is not None and said:
            raise DeepCacheError(f"policy says how to cache already; leave out {', '.join(said)}, or write it there")
        if self.policy is not None:
            return policy_from_json(dict(self.policy))
        return DeepCache(**said) if said else default


class Defaults(BaseModel):
    """What is taken where a request does not say it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str
    policy: Policy
    steps: int = 50
    seed: int = 0


def _several(one: Wanted, count: int, limits: Limits) -> list[Wanted]:
    from dataclasses import replace

    if not 1 <= count <= limits.images:
        raise DeepCacheError(f"n {count} is outside 1…{limits.images}; ask several times for more")
    one.check(limits)
    return [replace(one, seed=one.seed + i) for i in range(count)]


def _image(text: str, limits: Limits) -> Any:
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG", "JPEG"))
        if max(picture.size) > limits.pixels:
            wide, high = picture.size
            raise DeepCacheError(f"an image of {wide}×{high} pixels is larger than {limits.pixels}; make it smaller")
        return picture.convert("RGB")
    except DeepCacheError:
        raise
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError) as error:
        raise DeepCacheError("image is no base64 of a PNG or JPEG; encode one") from error


def as_base64(image: Any) -> str:
    """A picture of PIL as base64 of a PNG."""
    held = io.BytesIO()
    image.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def invalid(errors: Mapping[str, Any]) -> str:
    """What pydantic found wrong first, in one line with the argument's name."""
    where = ".".join(str(part) for part in errors["loc"] if part != "body") or "the body"
    return f"{where}: {str(errors['msg'])[:1].lower()}{str(errors['msg'])[1:]}"
