"""The page: what a reader sees, with nothing asked of the network and nothing from outside run."""

from __future__ import annotations

import dataclasses
import html as htmllib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradbelt._types import BUCKETS, Activation, Event, Finding, Level, Outcome, RunRecord, Story, Suspicion
from gradbelt.report import render_html
from gradbelt.report.figures import activation_figure, layer_figure, run_figure, size_figure, trials_figure
from gradbelt.testing import make_run, make_story

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
EVIL = "<script>window.evil=1</script><img src=x onerror='window.evil=1'>&amp;%{x}"
CASES: dict[str, tuple[Story, RunRecord]] = {
    "explodes": (make_story(), make_run(clip=5.0)),
    "all_nan": (make_story("all_nan"), make_run("all_nan")),
    "empty": (make_story("empty"), make_run("empty")),
    "one_step": (make_story("one_step"), make_run("one_step")),
    "healthy": (make_story("healthy"), make_run("healthy")),
    "no_trials": (make_story(trials=False), make_run()),
}
PLOTS = {"all_nan": 3, "empty": 0, "one_step": 2}
DRAWN = "document.querySelectorAll('.plot').length === document.querySelectorAll('.plot > .plot-container').length"
LABEL = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
CARD = "getComputedStyle(document.querySelector('.card')).backgroundColor"
OUTSIDE = """
[...document.querySelectorAll('main *')]
.filter(e => !e.closest('.scroll, pre, .run, .plot, .stack thead') && e.getBoundingClientRect().right > innerWidth + 1)
.map(e => e.outerHTML.slice(0, 80))
"""
TEXTS = """
[...document.querySelectorAll('h1, h2, h3, p, dt, dd, li, td, th, .badge, .eyebrow, figcaption, .diff span, button')]
.map(e => {
  let ground = e;
  while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  return [getComputedStyle(e).color, getComputedStyle(ground ?? document.body).backgroundColor,
    e.outerHTML.slice(0, 60)];
})
"""


def evil() -> tuple[Story, RunRecord]:
    """A story in which every text that comes from outside tries to break out."""
    story, run = make_story(), make_run()
    story = dataclasses.replace(
        story, script=EVIL, argv=(EVIL,), version=EVIL,
        symptoms=(Finding(kind=EVIL, step=1, level=Level.ALARM, where=EVIL, message=EVIL),),
        origin=dataclasses.replace(story.origin, op=EVIL, module=EVIL, file=EVIL, message=EVIL),
        causes=(Suspicion(cause=EVIL, confidence=0.5, evidence=(EVIL,), against=(EVIL,)),),
        trials=(Outcome(
            remedy=EVIL, outcome=EVIL, steps=1, loss=1.0, metric=1.0, seconds=1.0, note=EVIL, curve=((0, 1.0), (1, 2)),
        ),),
        prescriptions=(dataclasses.replace(story.prescriptions[0], remedies=(EVIL,), why=EVIL, patch="+" + EVIL),),
        clip=dataclasses.replace(story.clip, why=EVIL), seconds={EVIL: 1.0},
    )  # fmt: skip
    steps = tuple(
        dataclasses.replace(
            row, names=(EVIL, *row.names[1:]), losses={EVIL: 1.0, "</script>": 2.0}, action="skip: " + EVIL
        )
        for row in run.steps
    )
    return story, dataclasses.replace(
        run, steps=steps, meta={EVIL: EVIL}, folder=Path(EVIL), events=(Event(call=0, step=0, kind=EVIL, message=EVIL),)
    )


@dataclasses.dataclass
class Seen:
    """A page in a browser, with what it complained of and what it asked for."""

    page: Any
    errors: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("no chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as api:
        chromium = api.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def show(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    contexts = []

    def open_(text: str, *, width: int = 1200, scheme: str = "light") -> Seen:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        seen = Seen(context.new_page(), [], [])
        seen.page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        path = tmp_path_factory.mktemp("page") / "report.html"
        path.write_text(text, encoding="utf-8")
        seen.page.goto(path.as_uri())
        until(lambda: seen.page.evaluate(DRAWN))
        seen.requests = [
            url for url in seen.requests if url != seen.page.url and not url.startswith(("data:", "blob:"))
        ]
        return seen

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def page(show: Any) -> Any:
    """The page of an explosion, open in a browser; shared, because opening one takes seconds."""
    return show(render_html(*CASES["explodes"])).page


def until(true: Callable[[], object], within: float = 20.0) -> None:
    """Waits for it; playwright's own waiting evaluates strings, which the page's policy rightly refuses."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def plots(seen: Seen) -> int:
    return seen.page.locator(".js-plotly-plot .svg-container > .main-svg:first-child").count()


# ------------------------------------------------------------------------------------------------------ in a browser


@pytest.mark.parametrize("case", PLOTS)
def test_every_kind_of_run_is_drawn_without_an_error_or_a_request(case: str, show: Any) -> None:
    seen = show(render_html(*CASES[case]))
    assert plots(seen) == PLOTS[case]
    assert seen.errors == []
    assert seen.requests == []


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_it_reads_in_both_languages_both_schemes_and_on_a_phone(lang: str, show: Any) -> None:
    seen = show(render_html(*CASES["explodes"], lang=lang), width=360)
    page = seen.page
    for scheme, width in (("light", 360), ("dark", 1200)):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        until(lambda: contrast(*page.evaluate(f"[{LABEL}, {CARD}]")) > 4.5)
        until(lambda: page.evaluate("document.documentElement.scrollWidth") == width)
        # nothing sticks out of the screen but what scrolls by itself
        assert page.evaluate(OUTSIDE) == []
        assert plots(seen) == 3
    assert seen.errors == []
    assert seen.requests == []
    assert page.evaluate("document.documentElement.lang") == lang
    assert ("爆発しました" in page.locator("h1").inner_text()) == (lang == "ja")


def test_figures_follow_the_colour_scheme_and_all_text_has_contrast_in_both(page: Any) -> None:
    assert [pair for pair in page.evaluate(TEXTS) if contrast(*pair[:2]) < 4.5] == []
    light = page.evaluate(LABEL)
    page.emulate_media(color_scheme="dark")
    until(lambda: page.evaluate(LABEL) != light)
    pairs = page.evaluate(TEXTS)
    page.emulate_media(color_scheme="light")
    until(lambda: page.evaluate(LABEL) == light)
    assert len(pairs) > 50
    assert [pair for pair in pairs if contrast(*pair[:2]) < 4.5] == []


def test_what_comes_from_outside_stays_text(show: Any) -> None:
    seen = show(render_html(*evil()))
    assert plots(seen) == 3
    assert seen.errors == []
    assert seen.requests == []
    assert seen.page.evaluate("window.evil") is None
    assert seen.page.locator("main img, main script").count() == 0
    assert EVIL in seen.page.locator("h1").inner_text()
    # plotly knows some tags of its own; none of ours gets there
    assert seen.page.locator("#plot-trials .legendtext").first.text_content() == EVIL.replace("%{", "% {")
    assert "<script>" in seen.page.locator("#plot-layers .ytick text").first.text_content()


def test_a_cell_tells_its_own_number_when_pointed_at(page: Any) -> None:
    page.locator("#plot-layers").scroll_into_view_if_needed()
    area = page.locator("#plot-layers .nsewdrag").bounding_box()

    def told(x: float) -> str:
        page.mouse.move(area["x"] + x * area["width"], area["y"] + 0.9 * area["height"], steps=3)
        until(lambda: page.locator("#plot-layers .hoverlayer text").count())
        return page.locator("#plot-layers .hoverlayer").text_content()

    # the browser shows it a moment after the pointer has come to rest
    until(lambda: re.fullmatch(r"blocks\.1\.mlp\.down\.weightstep \d+log10 .?\d+\.\d+", told(0.5)))
    until(lambda: "NaN" in told(0.981))


def test_a_command_is_copied_by_its_button(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("button[data-copy]").first.click()
    until(lambda: page.locator("button[data-copy]").first.text_content() == "Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "gradbelt run --with lower_lr=0.1 train.py --epochs 3"


# ------------------------------------------------------------------------------------------------ without a browser


def contrast(one: str, other: str) -> float:
    """Contrast of two CSS colours by WCAG 2."""

    def luminance(colour: str) -> float:
        channels = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_a_long_wide_run_is_rendered_in_time_and_stays_small() -> None:
    story, run = make_story(steps=20_000), make_run(steps=20_000, params=300)
    started = time.perf_counter()
    text = render_html(story, run)
    assert time.perf_counter() - started < 3
    assert len(text) < 8_000_000


def test_the_plotting_script_is_in_the_page_once() -> None:
    assert render_html(*CASES["explodes"]).count("plotly.js v") == 1


@pytest.mark.parametrize(
    ("case", "anchors"),
    [
        ("empty", ["causes", "trials", "change", "layers"]),
        ("healthy", ["causes", "trials", "change"]),
        ("no_trials", ["trials"]),
    ],
)
def test_what_there_is_none_of_has_no_heading(case: str, anchors: list[str]) -> None:
    text = render_html(*CASES[case])
    for anchor in anchors:
        assert f'id="{anchor}"' not in text
        assert f'href="#{anchor}"' not in text


def test_every_link_in_the_page_has_its_target() -> None:
    text = render_html(*CASES["explodes"])
    for anchor in re.findall(r'href="#([\w-]+)"', text):
        assert f'id="{anchor}"' in text


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_page_tells_the_story(lang: str) -> None:
    story, run = CASES["explodes"]
    text = htmllib.unescape(render_html(story, run, lang=lang))
    for part in ("decoder.out", "train.py:42", "81 %", "gradbelt run --with lower_lr=0.1 train.py --epochs 3", "2.26"):
        assert part in text
    assert story.prescriptions[0].patch.splitlines()[4] in text


def test_a_nan_is_marked_and_not_dropped() -> None:
    story, run = CASES["explodes"]
    figure = run_figure(story, run, "en")
    marks = {trace["name"]: trace["x"] for trace in figure["data"]}
    assert marks["loss: NaN"] == [60]  # what came after the last step
    assert marks["gradient norm: NaN"] == [59]
    assert marks["skipped step"] == [59]
    json.dumps(figure, allow_nan=False)
    json.dumps(layer_figure(story, run, "en"), allow_nan=False)


def test_an_infinite_and_a_zero_norm_have_marks_of_their_own() -> None:
    run = make_run("healthy", steps=3)
    steps = (
        run.steps[0],
        dataclasses.replace(run.steps[1], total=float("inf"), norm=np.full_like(run.steps[1].norm, np.inf)),
        dataclasses.replace(run.steps[2], total=0.0, norm=np.zeros_like(run.steps[2].norm)),
    )
    run = dataclasses.replace(run, steps=steps)
    marks = {trace["name"]: trace["x"] for trace in run_figure(make_story("healthy"), run, "en")["data"]}
    assert marks["gradient norm: inf"] == [1]
    assert marks["gradient norm 0"] == [2]
    assert len(layer_figure(make_story("healthy"), run, "en")["data"]) == 3


def test_activations_are_drawn_where_some_were_sampled_and_have_no_section_where_none_was() -> None:
    run, story = make_run("healthy", steps=20), make_story("healthy", steps=20)
    shown = (Activation(name="fc<1>", rms=2.0), Activation(name="out", rms=0.5))
    sampled = dataclasses.replace(run, steps=tuple(dataclasses.replace(row, activations=shown) for row in run.steps))
    assert activation_figure(story, run, "en") is None and 'id="activations"' not in render_html(story, run)
    figure = activation_figure(story, sampled, "en")
    assert figure["data"][0]["z"][0] == [pytest.approx(math.log10(2.0), abs=1e-3)] * 20
    assert figure["label"] == "Scale of 2 activations over the steps, as a heat map"
    json.dumps(figure, allow_nan=False)
    page = render_html(story, sampled)
    assert 'id="activations"' in page and 'id="plot-activations"' in page and "fc<1>" not in page


def test_where_the_mass_of_gradients_lies_is_drawn_where_it_was_looked_at() -> None:
    run, story = make_run("healthy", steps=20, params=2), make_story("healthy", steps=20)
    assert size_figure(story, run, "en") is None and 'id="sizes"' not in render_html(story, run)
    counts = np.zeros((2, BUCKETS), np.uint8)
    counts[:, 20], counts[1, 22] = 30, 20
    steps = tuple(dataclasses.replace(row, exponents=None if row.step % 10 else counts) for row in run.steps)
    figure = size_figure(story, dataclasses.replace(run, steps=steps), "en")
    above, between, below = figure["data"][0]["z"]
    assert figure["data"][0]["x"] == [0, 10] and len(figure["data"]) == 1
    assert figure["layout"]["yaxis"]["ticktext"] == ["2⁻⁴ … 2⁻²", "2⁻⁶ … 2⁻⁴", "2⁻⁸ … 2⁻⁶"]
    assert above == [pytest.approx(math.log10(0.25), abs=1e-3)] * 2 and between == [None] * 2
    assert below == [pytest.approx(math.log10(0.75), abs=1e-3)] * 2
    json.dumps(figure, allow_nan=False)
    assert 'id="plot-sizes"' in render_html(story, dataclasses.replace(run, steps=steps), lang="ja")


def test_a_trial_that_breaks_does_not_press_the_others_flat() -> None:
    story, _ = CASES["explodes"]
    low, high = trials_figure(story, "en")["layout"]["yaxis"]["range"]
    assert max(loss for _, loss in story.trials[0].curve[:-1]) > 1e7
    assert 0 < low < 0.52
    assert 2.4 < high < 3


@pytest.mark.parametrize("losses", [(1e308, -1e308), (1e308, 5e-324), (0.0, 0.0), (-3.0, -3.0), (1e308, 1e308)])
def test_the_ends_of_the_float_range_can_be_drawn(losses: tuple[float, float]) -> None:
    run = make_run("healthy", steps=2)
    steps = tuple(
        dataclasses.replace(row, losses={"a.py:1": loss}, total=abs(loss))
        for row, loss in zip(run.steps, losses, strict=True)
    )
    story = make_story("healthy", steps=2)
    figure = run_figure(story, dataclasses.replace(run, steps=steps), "en")
    json.dumps(figure, allow_nan=False)
    for axis in ("yaxis", "yaxis2"):
        low, high = figure["layout"][axis]["range"]
        assert low < high


def test_two_losses_and_two_optimizers_are_lines_of_their_own() -> None:
    run = make_run("healthy", steps=5)
    steps = [dataclasses.replace(row, losses={"a.py:1": 1.0, "a.py:2": 2.0}) for row in run.steps]
    steps += [dataclasses.replace(row, optimizer=1, losses={}, unclipped=3.0) for row in run.steps]
    run = dataclasses.replace(run, steps=tuple(steps))
    lines = [trace["name"] for trace in run_figure(make_story("healthy"), run, "en")["data"]]
    assert lines == [
        "loss a.py:1",
        "loss a.py:2",
        "gradient norm 0",
        "gradient norm 1",
        "before the script's own clipping",
    ]
