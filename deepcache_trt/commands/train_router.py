"""`deepcache-trt train-router`: which taps a model can reuse, learnt."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import AllowPickle, Config, Model, Offline, Revision, WeightsVariant
from deepcache_trt.commands.typed.output import check_out, tell


def train_router(
    model: Model = "digits",
    steps: Annotated[int, typer.Option(help="Denoising steps that it is for, an even number.")] = 20,
    out: Annotated[Path, typer.Option(help="The router, a .safetensors file; its checkpoint lies beside.")] = Path(
        "router.safetensors"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images for each class or prompt, or an .npz file with latents and labels or prompts. "
            "[default: the digits, for models that come with the package]"
        ),
    ] = None,
    lr: Annotated[float, typer.Option(help="The learning rate.")] = 0.01,
    l1: Annotated[float, typer.Option(help="λ, what a tap that is computed costs: more of it removes more.")] = 5e-6,
    batch: Annotated[int, typer.Option(help="Images of a step of training, of all processes together.")] = 64,
    label_drop: Annotated[float, typer.Option(help="The share of images that are shown without their label.")] = 0.1,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps of training, those before a stop among them.")] = 5000,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")] = False,
    log_every: Annotated[int, typer.Option(min=1, help="Steps whose loss is told together.")] = 50,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    tensorboard: Annotated[Path | None, typer.Option(help="A folder for TensorBoard. [default: none]")] = None,
    revision: Revision = None,
    variant: WeightsVariant = None,
    config: Config = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Learn which taps cached steps can reuse.

    That is Learning-to-Cache, on DiTs and on U-Nets. No threshold is part of it: `deepcache-trt router plan` makes a
    plan file of a router and a threshold. It trains on whatever device accelerate finds, by `accelerate launch` on
    several.
    """
    from accelerate import Accelerator

    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.errors import CheckpointError
    from deepcache_trt.progress import logged, quiet_libraries, shown
    from deepcache_trt.runtime.policies.router_file import SAFE, write_router
    from deepcache_trt.training import run
    from deepcache_trt.training.router_training import HALF, Recipe, RouterTraining

    recipe = Recipe(steps=steps, lr=lr, l1=l1, batch=batch, drop=label_drop, seed=seed)
    check_out(out)
    if out.suffix != SAFE:
        raise CheckpointError(f"--out {out} is no {SAFE} file, which routers are; write --out {out.with_suffix(SAFE)}")
    quiet_libraries()
    accelerator, checkpoint = Accelerator(), out.with_name(f"{out.stem}.checkpoint")
    is_main = accelerator.is_main_process
    source = ModelSource(
        model=model, revision=revision, variant=variant, config=config, offline=offline, allow_pickle=allow_pickle
    )
    about = {"model": model, "data": None if data is None else data.name}
    with run.tensorboard(tensorboard if is_main else None) as write:
        teacher, examples = run.prepare(source, data, recipe, accelerator)
        training = RouterTraining(teacher, examples, recipe, accelerator)
        if resume and checkpoint.is_file():
            training.resume(checkpoint, about)
            tell(f"going on after {training.done} steps, of {checkpoint}")
        run.train(
            training,
            until=max_steps,
            about=about,
            checkpoint=checkpoint if is_main else None,
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            progress=shown if is_main else logged,
            write=write,
        )
    if is_main:
        facts = {"steps": steps, "lr": lr, "l1": l1, "batch": batch, "label_drop": label_drop, "seed": seed}
        write_router(out, run.trained_router(training, teacher, {**about, **facts}))
        tell(f"{training.removed:.1%} of the taps are removed in cached steps at a threshold of {HALF}")
        typer.echo(str(out))
