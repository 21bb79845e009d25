"""`deepcache-trt convert`: original checkpoints."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt, .ckpt or .safetensors file in its original layout.")],
    model: Annotated[str, typer.Option(help="The architecture: ddpm-cifar10, dit-xl-2-256, …")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    vae: Annotated[
        str | None, typer.Option(help="Folder or hub id, for DiT. [default: stabilityai/sd-vae-ft-ema]")
    ] = None,
) -> None:
    """Make a diffusers folder of an original checkpoint.

    --model of every other command takes the folder. Code that the file may hold is not run.
    """
    from deepcache_trt.builder.convert import VAE
    from deepcache_trt.builder.convert import convert as write
    from deepcache_trt.progress import quiet_libraries

    quiet_libraries()
    write(checkpoint, model, out, vae=vae or VAE)
    typer.echo(str(out))
