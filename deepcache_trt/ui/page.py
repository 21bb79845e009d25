"""The page: what is typed on the left, the pictures on the right, and how to say the same elsewhere below."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.models.catalogue import check_name
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.policies import DeepCache
from deepcache_trt.serving.painter import Painter, Served
from deepcache_trt.ui.comparison import FORECASTS, POLICIES, Asked, Shown, compare

_HISTORY = 12  # pictures

_HEAD = """# deepcache-trt
The same noise, drawn by plain diffusers and cached, with what each took."""


def page(models: list[str], painter: Painter) -> gr.Blocks:
    """The page, not started.

    Args:
        models: that are offered, the first one at once; others can be typed.
        painter: that draws them.
    """
    with gr.Blocks(title="deepcache-trt") as blocks:
        gr.Markdown(_HEAD)
        history = gr.State([])
        picture: dict[str, Any] = {"show_label": False, "interactive": False, "format": "png", "height": 290}
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                prompt = gr.Textbox("a handwritten seven", label="Prompt", elem_id="prompt")
                negative = gr.Textbox("", label="Negative prompt", elem_id="negative")
                model = gr.Dropdown(models, value=models[0], label="Model", allow_custom_value=True, elem_id="model")
                policy = gr.Dropdown(list(POLICIES), value=POLICIES[0], label="Policy", elem_id="policy")
                interval = gr.Slider(1, 20, value=3, step=1, label="Interval", elem_id="interval")
                branch = gr.Slider(0, 11, value=0, step=1, label="Branch", elem_id="branch")
                forecast = gr.Radio(list(FORECASTS), value=FORECASTS[0], label="Forecast", elem_id="forecast")
                plan = gr.Textbox("", label="Plan file (JSON)", lines=2, elem_id="plan", visible=False)
                with gr.Row():
                    steps = gr.Slider(1, 100, value=50, step=1, label="Steps", elem_id="steps")
                    guidance = gr.Slider(0, 15, value=7.5, step=0.5, label="Guidance", elem_id="guidance")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
                    size = gr.Textbox("", label="Size", placeholder="512x512; empty: the model's", elem_id="size")
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
            with gr.Column(scale=2, min_width=300):
                wrong = gr.HTML("", elem_id="wrong")
                strip = gr.HTML("", elem_id="strip")
                with gr.Row():
                    with gr.Column(min_width=250):
                        plain_words = gr.Markdown(Shown.plain_words, elem_id="plain-words")
                        plain = gr.Image(elem_id="plain", **picture)
                    with gr.Column(min_width=250):
                        cached_words = gr.Markdown(Shown.cached_words, elem_id="cached-words")
                        cached = gr.Image(elem_id="cached", **picture)
                    with gr.Column(min_width=250):
                        fidelity = gr.Markdown("difference", elem_id="fidelity")
                        difference = gr.Image(elem_id="difference", **picture)
                shown = gr.Gallery(
                    label="History",
                    columns=6,
                    fit_columns=False,
                    height=220,
                    object_fit="contain",
                    elem_id="history",
                    format="png",
                )
        with gr.Tabs():
            with gr.Tab("Python"):
                python = gr.Code("", language="python", elem_id="python")
            with gr.Tab("Command line"):
                command = gr.Code("", language="shell", elem_id="command")
            with gr.Tab("Plan file"):
                plan_file = gr.Code("", language="json", elem_id="plan-file")

        asked = [model, prompt, negative, steps, guidance, seed, size, policy, interval, branch, forecast, plan]
        policy.change(lambda chosen: gr.update(visible=chosen == POLICIES[-1]), policy, plan, show_progress="hidden")

        def drawn(past: list[Any], *given: Any) -> Iterator[dict[Any, Any]]:
            try:
                wanted = _asked(*given)
                check_name(wanted.model)
                said = {python: wanted.as_python(), command: wanted.as_command(), plan_file: wanted.as_plan()}
                last = Shown()
                for last in compare(painter, wanted):
                    yield {wrong: "", **_pictures(last)}
            except DeepCacheError as error:  # what was drawn before stays
                yield {wrong: f'<p role="alert" style="color:#c01c28">Not drawn: {html.escape(first_line(error))}</p>'}
                return
            past = [(last.cached, f"{wanted.prompt}: {last.cached_words}, {last.fidelity}"), *past][:_HISTORY]
            yield {**_pictures(last), **said, history: past, shown: past}

        def _pictures(last: Shown) -> dict[Any, Any]:
            words = {plain_words: last.plain_words, cached_words: last.cached_words, fidelity: last.fidelity}
            return {strip: last.strip, plain: last.plain, cached: last.cached, difference: last.difference, **words}

        sides = [plain, plain_words, cached, cached_words, difference, fidelity]
        results = [wrong, strip, *sides, python, command, plan_file, history, shown]
        for event in (draw.click, prompt.submit):
            event(drawn, [history, *asked], results, concurrency_limit=1)
    return blocks


class _Anything(dict[str, str]):
    """Models by name, of which any is its own."""

    def __missing__(self, name: str) -> str:
        return name


def _asked(
    model: str,
    prompt: str,
    negative: str,
    steps: float,
    guidance: float,
    seed: float | None,
    size: str,
    policy: str,
    interval: float,
    branch: float,
    forecast: str,
    plan: str,
) -> Asked:
    return Asked(
        model=str(model),
        prompt=prompt,
        negative_prompt=negative,
        steps=int(steps),
        guidance=float(guidance),
        seed=int(seed or 0),
        size=size.strip(),
        policy_name=policy,
        interval=int(interval),
        branch=int(branch),
        forecast=forecast,
        plan=plan,
    )


def start(models: list[str], *, backend: str, store: Path | None, host: str, port: int) -> None:
    """Show the page until Ctrl-C, with the first model's engines built.

    Raises:
        DeepCacheError: a model that cannot be drawn, or somebody listens there already.
    """
    options = EngineOptions(backend=backend, store=store)
    painter = Painter(Served(models=_Anything({name: name for name in models}), adapters={}, options=options))
    painter.warm(models[0], DeepCache(cache_interval=3), 1)
    blocks = page(models, painter)
    try:
        blocks.queue().launch(server_name=host, server_port=port, quiet=True, show_error=True, prevent_thread_lock=True)
    except OSError as error:
        raise DeepCacheError(f"cannot listen on {host}:{port}: {first_line(error)}; choose another --port") from error
    print(f"http://{host}:{port}", flush=True)
    blocks.block_thread()
