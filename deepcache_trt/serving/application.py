"""The server on Ray Serve: one door for HTTP, and behind it replicas that draw, one for each GPU.

`serve deploy` takes it by its import path, `deepcache_trt.serving.application:application`, with the fields of
`Settings` as arguments; `deepcache-trt serve` starts the same.
"""

import dataclasses
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.applications import Starlette
from starlette.routing import Mount

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies import DeepCache
from deepcache_trt.runtime.policies.policy import policy_from_json
from deepcache_trt.serving.batches import Batches, FullError
from deepcache_trt.serving.wanted import Limits, Wanted

if TYPE_CHECKING:
    from deepcache_trt.pipelines.engine_options import EngineOptions

# How often a picture is drawn anew because the replica that drew it is gone.
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a server.

    Attributes:
        models: as `DeepCachePipeline.from_pretrained` takes them, by the names that requests use.
        adapters: files or hub ids of LoRAs, likewise.
        policy: where a request says none, as a plan file says it.
        backend: of the engines.
        dtype: of the pipelines; "": float16 on a GPU, float32 without one.
        store: where engines are kept; "": the user's cache.
        precision: as in `EngineOptions`; "": everything is in the pipelines' dtype.
        quantize: likewise.
        calibration_prompts: likewise; prompts, or a file that every replica can read.
        replicas: at most; as many as there are GPUs where it is 0, and one where there are none.
        cores: threads of a replica; 0: those of its machine, shared among as many replicas as there may be, but for
            one that answers.
        batch: pictures that are drawn together, at most.
        waiting: pictures that wait in front of a replica, at most.
        seconds: that a request may take.
        body: bytes of a request, at most.
        steps: see `Limits`.
        pixels: likewise.
        characters: likewise.
        images: likewise.
        key: that requests have to show; "": none.
        plain: whether plain diffusers draws, to be compared with.
    """

    models: Mapping[str, str] = field(default_factory=lambda: {"digits": "digits"})
    adapters: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=lambda: DeepCache(cache_interval=3).to_json())
    backend: str = "auto"
    dtype: str = ""
    store: str = ""
    precision: str = ""
    quantize: Sequence[str] = ()
    calibration_prompts: str | Sequence[str] = ()
    replicas: int = 0
    cores: int = 0
    batch: int = 8
    waiting: int = 64
    seconds: float = 300.0
    body: int = 16 * 2**20
    steps: int = Limits.steps
    pixels: int = Limits.pixels
    characters: int = Limits.characters
    images: int = Limits.images
    key: str = ""
    plain: bool = False

    def __post_init__(self) -> None:
        from deepcache_trt.models.catalogue import check_name
        from deepcache_trt.serving.painter import SIZES

        if not self.models:
            raise DeepCacheError("models is empty; name at least one that is served")
        for model in self.models.values():
            check_name(model)
        if not 1 <= self.batch <= SIZES[-1]:
            raise DeepCacheError(f"batch {self.batch} is outside 1…{SIZES[-1]}; choose a number between")
        for name, least in {"waiting": 1, "seconds": 0.001, "body": 1, "replicas": 0, "cores": 0}.items():
            if getattr(self, name) < least:
                raise DeepCacheError(f"{name} {getattr(self, name)} is below {least}; give at least that")
        policy_from_json(dict(self.policy))
        _ = self.engine_options  # refuses what has no meaning together

    @property
    def engine_options(self) -> "EngineOptions":
        """Of the pipelines."""
        from deepcache_trt.pipelines.engine_options import EngineOptions

        return EngineOptions(
            backend=self.backend,
            store=self.store or None,
            precision=self.precision or None,
            quantize=tuple(self.quantize) or None,
            calibration_prompts=self.calibration_prompts or None,
        )

    @property
    def limits(self) -> Limits:
        """Of requests."""
        return Limits(steps=self.steps, pixels=self.pixels, characters=self.characters, images=self.images)


class Replica:
    """Draws, in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        """Load the models, and build their engines."""
        import torch

        from deepcache_trt.progress import quiet_libraries
        from deepcache_trt.serving.painter import Painter, Served

        quiet_libraries()
        # Ray tells a process to have as many threads as it asked for cores.
        shared = len(os.sched_getaffinity(0)) // max(settings.replicas, 1)
        torch.set_num_threads(settings.cores or max(1, shared - 1))
        served = Served(
            models=dict(settings.models),
            adapters=dict(settings.adapters),
            options=settings.engine_options,
            dtype=settings.dtype or None,
            is_plain=settings.plain,
        )
        painter = Painter(served)
        for model in settings.models:
            painter.warm(model, policy_from_json(dict(settings.policy)), settings.batch)
        self._batches: Batches[Wanted] = Batches(painter.paint, most=settings.batch, waiting=settings.waiting)

    async def draw(self, wanted: Wanted) -> AsyncIterator[Any]:
        """Steps, and then a picture."""
        async for each in self._batches.follow(wanted):
            yield each


async def _pass_on(scope: Any, receive: Any, send: Any) -> None:
    """To the application that the front has made."""
    front: Any = serve.get_replica_context().servable_object
    await front.http(scope, receive, send)


@serve.ingress(Starlette(routes=[Mount("/", app=_pass_on)]))
class Front:
    """The door: what comes over HTTP goes to the replicas."""

    def __init__(self, settings: Settings, replicas: Any) -> None:
        """Make the application."""
        from deepcache_trt.serving.bodies import Defaults
        from deepcache_trt.serving.http import Door, create_app
        from deepcache_trt.serving.painter import check_served

        self._replicas = replicas.options(stream=True, method_name="draw")
        names = tuple(settings.models)
        self.http = create_app(
            Door(
                draw=self._draw,
                check=lambda wanted: check_served(wanted, settings.models, settings.adapters),
                models=names,
                default=Defaults(model=names[0], policy=policy_from_json(dict(settings.policy))),
                limits=settings.limits,
                seconds=settings.seconds,
                body=settings.body,
                key=settings.key,
            )
        )

    async def _draw(self, wanted: Wanted) -> AsyncIterator[Any]:
        from deepcache_trt.serving.answers import GoneError

        for _ in range(_TRIES):
            found = self._replicas.remote(wanted)
            try:
                async for each in found:
                    yield each
                return
            except BackPressureError as error:
                raise FullError("too many requests are waiting already; try again later") from error
            except DeploymentUnavailableError as error:
                raise GoneError("nobody can draw at present; ask again later") from error
            except RayActorError:
                continue
            finally:
                found.cancel()
        raise GoneError(f"whoever drew it is gone, {_TRIES} times; ask again later")


def application(args: Mapping[str, Any]) -> Any:
    """The application of these settings, as `serve deploy` builds it.

    Raises:
        DeepCacheError: a setting that there is not, or that cannot be.
    """
    return bound(settings_from(args), gpus=gpus_here())


def settings_from(args: Mapping[str, Any]) -> Settings:
    """Settings as a file says them.

    Raises:
        DeepCacheError: see `application`.
    """
    from deepcache_trt.errors import did_you_mean

    known = [each.name for each in dataclasses.fields(Settings)]
    for name in args:
        if name not in known:
            raise DeepCacheError(f"there is no setting {name!r}{did_you_mean(name, known)}; take it out")
    return Settings(**args)


def bound(settings: Settings, *, gpus: int) -> Any:
    """The deployments: a replica has a GPU of its own where there are any, and cores where there are none."""
    most = settings.replicas or max(gpus, 1)
    resources = {"num_gpus": 1 if gpus else 0, "num_cpus": 1 if gpus else settings.cores or 1}
    deployment: Any = serve.deployment
    replica = deployment(
        Replica,
        name="replica",
        max_ongoing_requests=settings.waiting + settings.batch,
        max_queued_requests=settings.waiting * most,
        ray_actor_options=resources,
        autoscaling_config={"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": settings.batch},
        health_check_period_s=2,
        health_check_timeout_s=120,
    )
    front = deployment(
        Front, name="front", num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0}
    )
    return front.bind(settings, replica.bind(settings))


def gpus_here() -> int:
    """Of the cluster that this process is in."""
    import ray

    cluster: Any = ray
    return int(cluster.cluster_resources().get("GPU", 0))
