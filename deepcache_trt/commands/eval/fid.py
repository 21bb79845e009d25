"""`deepcache-trt eval fid`: how far two collections of images are apart."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import AsJson, ExtractorName, ImageCount, StoreFolder
from deepcache_trt.errors import DeepCacheError


def fid(
    images: Annotated[
        Path, typer.Argument(metavar="A", help="A folder of PNG or JPEG, a .npz of images, or saved statistics.")
    ],
    reference: Annotated[Path | None, typer.Argument(metavar="B", help="The same; left out with --save-stats.")] = None,
    save_stats: Annotated[
        Path | None, typer.Option(help="Write the statistics of A into this .npz, to be given as A or B later.")
    ] = None,
    extractor: ExtractorName = "inception",
    count: ImageCount = None,
    batch: Annotated[int, typer.Option(min=1, help="Images that features are made of at a time.")] = 50,
    store: StoreFolder = None,
    as_json: AsJson = False,
) -> None:
    """Measure how far two sets of images are apart.

    It is their Fréchet distance: FID, with Inception's features.

    Statistics are kept in the store and computed again when a file has changed.
    """
    from deepcache_trt.benchmarks.fidelity.extractors import extractor_called
    from deepcache_trt.benchmarks.fidelity.image_sets import statistics_from
    from deepcache_trt.benchmarks.fidelity.statistics import Statistics, frechet, save_statistics
    from deepcache_trt.engines.store import default_root
    from deepcache_trt.progress import shown

    if reference is None and save_stats is None:
        raise DeepCacheError(f"there is nothing to compare {images} with; give B, or --save-stats FILE")
    chosen = extractor_called(extractor)
    cache = (store or default_root()) / "caches" / "statistics"

    def measured(path: Path) -> Statistics:
        with shown(f"features of {path.name}") as report:
            return statistics_from(
                path,
                chosen,
                cache=cache,
                images=count,
                batch=batch,
                seen=lambda done: report(done=done, total=done, detail=f"{done:,} images"),
            )

    own = measured(images)
    if save_stats is not None:
        save_statistics(own, save_stats)
    if reference is None:
        typer.echo(str(save_stats))
        return
    other = measured(reference)
    record = {"distance": frechet(own, other), "images": [own.count, other.count]}
    record |= {"extractor": own.extractor, "resize": own.resize}
    if as_json:
        import json

        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    typer.echo(f"Fréchet distance {record['distance']:.4f}")
    typer.echo(f"· of {own.count:,} images from {other.count:,}")
    typer.echo(f"· features: {own.extractor}; resized to {own.resize}")
