"""The page. A tab translates widgets to a request; it never computes."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.assets import asset
from ipadapter_demo.logins import logins
from ipadapter_demo.pipeline import ImagePromptPipeline, ModelInfo
from ipadapter_demo.serving import Limits, ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.temporary import AGE, EVERY
from ipadapter_demo.ui.guard import app_options
from ipadapter_demo.ui.language import SWITCH, keep_values, translations
from ipadapter_demo.ui.run import tools
from ipadapter_demo.ui.run.api import add_api
from ipadapter_demo.ui.run.batch import add_batch
from ipadapter_demo.ui.run.drag import DRAG
from ipadapter_demo.ui.run.embeds import add_embeds
from ipadapter_demo.ui.run.faces import add_faces
from ipadapter_demo.ui.run.fresh import look_when_asked
from ipadapter_demo.ui.run.history import history_strip, remember_runs
from ipadapter_demo.ui.run.live import add_live
from ipadapter_demo.ui.run.model_input import model_input
from ipadapter_demo.ui.run.models import on_switch
from ipadapter_demo.ui.run.offers import Scene, add_surprise, add_switch
from ipadapter_demo.ui.run.page import Page
from ipadapter_demo.ui.run.restore import restore_button
from ipadapter_demo.ui.run.running import build_tab
from ipadapter_demo.ui.run.say import escaped
from ipadapter_demo.ui.run.send import add_send_to
from ipadapter_demo.ui.run.sweep import add_sweep
from ipadapter_demo.ui.run.uploads import refuse_addresses
from ipadapter_demo.ui.tabs import TABS, compare
from ipadapter_demo.ui.widgets.access import ACCESS
from ipadapter_demo.ui.widgets.foreign import CONVERT, png_endpoint
from ipadapter_demo.ui.widgets.loras import TAKE_AWAY, on_few_step
from ipadapter_demo.ui.widgets.mask_editor import KEYS, ONCE
from ipadapter_demo.ui.widgets.masks import PAINTED
from ipadapter_demo.ui.widgets.sliders import LIMITS

__all__ = ["build_ui", "launch", "launch_options"]

STYLE = asset("assets/style.css")
# Gradio's own colours of these have a contrast below 4.5 to 1.
READABLE = {
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "link_text_color_dark": "*primary_300",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "checkbox_border_color": "*neutral_500",
    "checkbox_border_color_dark": "*neutral_400",
}

# A file that is dropped beside all widgets is restored from, as if the button had been used.
DROP = """() => {
    const elsewhere = (event) => !event.target.closest(".tabitem .block");
    document.addEventListener("dragover", (event) => {
        if (elsewhere(event)) event.preventDefault();
    });
    document.addEventListener("drop", (event) => {
        const input = document.querySelector(".header input[type=file]");
        if (!elsewhere(event) || !event.dataTransfer.files.length || !input) return;
        event.preventDefault();
        input.files = event.dataTransfer.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    });
}"""


SCRIPTS = (DROP, DRAG, CONVERT, KEYS, ONCE, PAINTED, LIMITS, TAKE_AWAY, ACCESS)


def build_ui(
    pipeline: ImagePromptPipeline | ModelManager, settings: Settings, scene: Scene | None = None
) -> gr.Blocks:
    """The page over one pipeline, or over a manager that changes models, its queue set up:
    `launch(page, settings)`. `scene` draws the world of a small model, by a seed."""
    manager = (
        pipeline
        if isinstance(pipeline, ModelManager)
        else ModelManager(pipeline, most=settings.queue_size, limits=Limits.of(settings))
    )
    page = Page(title="IP-Adapter demo", analytics_enabled=False, delete_cache=(EVERY, AGE))
    with page:
        with gr.Row(elem_classes="header"):
            title = gr.HTML(header(manager.info), scale=1)
            model = model_input(manager)
            restored = gr.UploadButton(
                "Load settings from an image",
                size="sm",
                scale=0,
                min_width=220,
                file_types=[".png", ".json", ".zip"],  # an output, or a comparison's manifest
            )
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            built = {}
            for name, tab in TABS.items():
                with gr.Tab(tab.label, id=name):
                    built[name] = build_tab(manager, model, tab)
                    add_live(manager, built[name])
                    add_batch(manager, built[name])
                    add_api(manager, built[name])
                    if "embeds" in built[name].inputs:
                        add_embeds(manager, built[name])
                        add_faces(manager, model, built[name])
                    on_few_step(manager, model, built[name].inputs, tab.recommended)
            with gr.Tab("Compare", id="compare") as tab:
                comparison = compare.build(manager, model, tab)
        history_strip()
        for one in built.values():
            remember_runs(one)
        add_send_to(tabs, built, comparison.pictures)
        add_switch(manager, model, built.values())
        if scene is not None:
            for name in ("variation", "image_text"):
                add_surprise(manager, model, built[name], scene)
        add_sweep(manager, built["image_text"])
        png_endpoint()
        look_when_asked(page, manager, model, built.values())
        on_switch(manager, model, title, header, built.values())
        restore_button(
            manager,
            restored,
            model,
            title,
            header,
            tabs,
            built,
            comparison.shown,
            comparison.widgets,
        )
        keep_values(page)
    keep_progress_short(page, restored)
    refuse_addresses(page)
    return page.queue(max_size=settings.queue_size, api_open=False)


def keep_progress_short(page: gr.Blocks, where: gr.UploadButton) -> None:
    """With every message of any event gradio's script tells all components that an event so far
    may change how far that event is, each after a search through the whole page: a comparison kept
    a core busy with it. Where that is hidden, one component is told, which comes early and shows
    none."""
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [where]


def header(info: ModelInfo) -> str:
    return (
        f"{SWITCH}<h1>IP-Adapter demo</h1>"
        "<p>Generate images from a reference picture (IP-Adapter). "
        f"Model: <b>{escaped(info.name)}</b> · <span>{escaped(info.note)}</span></p>"
    )


def launch(page: gr.Blocks, settings: Settings) -> None:
    """Serve the page, from threads of its own: `page.block_thread()` waits for its end."""
    page.launch(prevent_thread_lock=True, **launch_options(settings))
    if settings.mcp:
        tools.complete(page.mcp_server_obj)


def launch_options(settings: Settings) -> dict[str, object]:
    """Options of serving the page. Uploads and results are all that a visitor can reach."""
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "share": settings.share,
        "max_file_size": settings.max_file_size,
        # Each who waits has one, and each comparison; 40 are the default.
        "max_threads": 2 * settings.queue_size + 40,
        # Of which each may hold runs that wait, see run/further.py; 10,000 are the default.
        "state_session_capacity": 2000,
        "allowed_paths": [],
        "strict_cors": True,
        "enable_monitoring": False,
        "show_error": False,
        # A page that takes more than three seconds on a busy machine would count as out of reach.
        "_frontend": False,
        "run_history": False,  # would keep a visitor's pictures in the browser for the next one
        "ssr_mode": False,
        "pwa": False,
        "root_path": settings.root_path.rstrip("/") or None,
        "auth": logins(settings.auth) or None,
        "mcp_server": settings.mcp,
        "app_kwargs": app_options(settings),
        "footer_links": ["api", "settings"],
        # Fonts by name only: a page that says nothing leaves the machine fetches none.
        "theme": gr.themes.Default(
            primary_hue="indigo",
            neutral_hue="slate",
            font=("ui-sans-serif", "system-ui", "sans-serif"),
            font_mono=("ui-monospace", "monospace"),
        ).set(**READABLE),
        "i18n": translations(),
        "css_paths": [STYLE],
        "js": "() => {" + "".join(f"({one})();" for one in SCRIPTS) + "}",
    }
