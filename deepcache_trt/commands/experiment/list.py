"""`deepcache-trt experiment list`: which there are."""

import typer


def list() -> None:
    """Tell the experiments, and what each shows."""
    from deepcache_trt.benchmarks.experiments.declared import experiments

    width = max(map(len, experiments()))
    for each in experiments().values():
        typer.echo(f"{each.name:<{width}}  {each.says}")
