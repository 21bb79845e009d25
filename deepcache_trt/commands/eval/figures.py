"""`deepcache-trt eval figures`: the five figures that models of ImageNet are compared by."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import AsJson, ExtractorName, ImageCount
from deepcache_trt.errors import DeepCacheError


def figures(
    images: Annotated[Path, typer.Argument(metavar="A", help="A folder of PNG or JPEG, or a .npz of drawn images.")],
    reference: Annotated[Path, typer.Argument(metavar="B", help="The same, of real ones.")],
    extractor: ExtractorName = "inception",
    count: ImageCount = None,
    batch: Annotated[int, typer.Option(min=1, help="Images that are read at a time.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Measure Inception score, FID, sFID, precision and recall.

    These are the figures of the evaluator that goes with LDM and DiT, by formulas of ours and torch-fidelity's network.
    """
    from deepcache_trt.benchmarks.fidelity.extractors import extractor_called
    from deepcache_trt.benchmarks.fidelity.figures import Reading, figures_of
    from deepcache_trt.benchmarks.fidelity.image_sets import check_images, read_images
    from deepcache_trt.progress import shown

    chosen = extractor_called(extractor)

    def read(path: Path) -> Reading:
        with shown(f"features of {path.name}") as report:
            return read_images(
                path,
                chosen,
                images=count,
                batch=batch,
                seen=lambda done: report(done=done, total=done, detail=f"{done:,} images"),
            )

    for path in (images, reference):
        check_images(path)
    drawn, real = read(images), read(reference)
    try:
        found = figures_of(drawn, real)
    except ValueError as error:
        raise DeepCacheError(str(error)) from error
    counts = [len(drawn.pooled), len(real.pooled)]
    if as_json:
        import json

        record = {**found, "images": counts, "extractor": chosen.name, "resize": chosen.resize, "others": chosen.others}
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for name, figure in found.items():
        typer.echo(f"{name.replace('_', ' '):<16} {figure:.4f}")
    typer.echo(f"· of {counts[0]:,} images beside {counts[1]:,}")
    typer.echo(f"· features: {chosen.name}; {chosen.others}; resized to {chosen.resize}")
