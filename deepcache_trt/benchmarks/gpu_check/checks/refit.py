"""The check of engines that take other weights in place."""

from dataclasses import replace
from typing import Any

import torch

from deepcache_trt.benchmarks.gpu_check.checks.subject import POLICY, Buffers, Subject
from deepcache_trt.benchmarks.gpu_check.rows import Row
from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.graphs import bound_graph
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.trust import TOLERANCE, relative_error
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.runtime.session import Session


def refit(subject: Subject) -> list[Row]:
    """Other weights in the same engines give what engines built for them give, and the first ones come back exactly."""
    if not subject.target.backend.refits:
        return [subject.row("refit", "missing", "this backend builds other engines for other weights")]
    if subject.workload.other_pixels is None:
        return [subject.row("refit", "skipped", "not built twice for this model; see digits")]
    other = from_model(subject.pipe.unet, name=subject.model, part="unet", state=_other_weights(subject.pipe.unet))
    target = replace(subject.target, options=BuildOptions(refittable=True))
    session = open_session(subject.component, POLICY, target, sizes=subject.sizes(), progress=logged)
    try:
        before = _both(subject, session)
        _refit(subject, session, other)
        refitted = _both(subject, session)
        _refit(subject, session, subject.component)
        again = _both(subject, session)
    finally:
        session.close()
    rebuilt_session = open_session(other, POLICY, subject.target, sizes=subject.sizes(), progress=logged)
    try:
        rebuilt = _both(subject, rebuilt_session)
    finally:
        rebuilt_session.close()
    changed, error, limit = (
        relative_error(refitted, before),
        relative_error(refitted, rebuilt),
        TOLERANCE[subject.dtype],
    )
    returned = torch.equal(before, again)
    detail = (
        f"{error:.1e} of the norm from engines built for these weights, {changed:.1e} from those for the first ones"
    )
    detail += f", which {'came back bit for bit' if returned else 'did not come back'}"
    figures = {"relative_error": error, "change": changed, "limit": limit, "returned": returned}
    return [subject.row("refit", returned and error <= limit < changed, detail, **figures)]


def _other_weights(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + (0.1 * weight.abs().mean() * torch.randn(weight.shape, generator=generator).to(weight))
        for name, weight in model.state_dict().items()
    }


def _refit(subject: Subject, session: Session, component: Component) -> None:
    for variant in variants_of(component.architecture, POLICY, component.name):
        with bound_graph(component, variant, subject.target.store, logged) as graph:
            session.engines[variant.name].refit(graph)


def _both(subject: Subject, session: Session) -> torch.Tensor:
    sizes = subject.sizes()
    buffers = Buffers(session.engines, sizes, subject.device)
    return torch.stack([buffers.run(FULL, subject.inputs(sizes)), buffers.run(SHALLOW, subject.inputs(sizes, seed=1))])
