"""Models are exported in several threads at once, as when two pipelines draw their first images."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.fresh import config_of
from tests.pipelines import micro


def test_graphs_exported_at_once_are_those_exported_alone() -> None:
    models = [micro.STRAIGHT[name].new().unet for name in ("sd", "ddpm")]
    exports = [partial(onnx_from_config, type(model), config_of(model), dtype="float32") for model in models]
    with ThreadPoolExecutor(len(exports)) as pool:
        together = [each.result() for each in [pool.submit(export) for export in exports]]
    for graph, export in zip(together, exports, strict=True):
        alone = export()
        assert [node.op_type for node in graph.graph] == [node.op_type for node in alone.graph]
        assert graph.graph.initializers.keys() == alone.graph.initializers.keys()
