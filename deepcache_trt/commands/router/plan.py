"""`deepcache-trt router plan`: a plan file of a trained router."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.output import check_out
from deepcache_trt.errors import DeepCacheError


def plan(
    file: Annotated[
        Path, typer.Argument(help="Of train-router, a .pt of Learning-to-Cache, or a model that has one: digits-dit.")
    ],
    threshold: Annotated[float, typer.Option(help="What has at most this score is reused; more removes more.")] = 0.1,
    out: Annotated[Path, typer.Option(help="The plan file to write.")] = Path("plan.json"),
    forecast: Annotated[
        str | None, typer.Option(help="taylor1: extrapolate what is reused. [default: reuse it as it is]")
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(min=0, help="A seed: as many taps drawn at random, to compare with. [default: the router's]"),
    ] = None,
    skip: Annotated[
        bool, typer.Option("--all", help="Every tap is reused: cached steps are skipped, to compare with.")
    ] = False,
) -> None:
    """Make a plan file of a router.

    `generate`, `eval`, `bench` and `build` take it as --plan.
    """
    from deepcache_trt.models.catalogue import CATALOGUE, resolve
    from deepcache_trt.runtime.policies import Router
    from deepcache_trt.runtime.policies.plan_file import PlanFile, write_plan
    from deepcache_trt.runtime.policies.router import all_reused, masks_at, random_masks
    from deepcache_trt.runtime.policies.router_file import read_router

    if skip and random is not None:
        raise DeepCacheError("--all leaves nothing to draw; leave it or --random out")
    trained = read_router(Path(resolve(file)) if str(file) in CATALOGUE else file)
    masks = masks_at(trained.logits, threshold)
    about = {**trained.about, "router": file.name, "threshold": threshold}
    if random is not None:
        masks, about = random_masks(masks, random), {**about, "random": random}
    if skip:
        masks, about = all_reused(masks), {**about, "all": True}
    policy = Router(masks=masks, forecast=forecast)
    check_out(out)
    write_plan(out, PlanFile(policy=policy, about=about))
    typer.echo(policy.in_words)
    typer.echo(str(out))
