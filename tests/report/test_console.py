"""What a user reads in the terminal."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from gradbelt._types import Finding, Level, Outcome, Prescription, Story, Suspicion
from gradbelt.report import render_console, render_html, render_live
from gradbelt.testing import make_run, make_story

FOLDER = Path("runs/folder")
LANGS = ["en", "ja"]
NUMBER = re.compile(r"(?<![\w.=-])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w=])")


def numbers(story: Story) -> set[str]:
    """Every number of a story, as the console may write it."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for item in dataclasses.fields(value):
                if item.name not in ("curve", "norms", "patch"):
                    walk(getattr(value, item.name))
        elif isinstance(value, (tuple, list)):
            for item in value:
                walk(item)
        elif isinstance(value, dict):
            walk(list(value.values()))
        elif isinstance(value, str):
            found.update(re.findall(r"\d+(?:\.\d+)?", value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found.update({f"{value:.3g}", f"{value:.1f}", f"{value:.0f}", f"{100 * value:.0f}", f"{100 * value:.2g}"})

    walk(story)
    return found


@pytest.mark.parametrize("lang", LANGS)
def test_every_number_shown_is_one_of_the_story(lang: str) -> None:
    story = make_story()
    shown = set(NUMBER.findall(render_console(story, lang=lang)))
    # 10 is in the Japanese for "a tenth"; the rank of the prescription is 1
    assert shown - {"10"} <= numbers(story)
    assert {"59", "60", "81", "12", "0.52", "2.26", "42", "61", "4.1"} <= shown


@pytest.mark.parametrize("lang", LANGS)
def test_the_story_of_an_explosion_is_told_in_few_lines(lang: str) -> None:
    text = render_console(make_story(), lang=lang, folder=FOLDER)
    for part in ("train.py:61", "decoder.out", "train.py:42", "81 %", "lower_lr=0.1", "clip_norm=1.0"):
        assert part in text
    assert "$ gradbelt run --with lower_lr=0.1 train.py --epochs 3\n" in text
    assert text.rstrip().endswith("runs/folder/report.html")
    assert len(text.splitlines()) <= 19


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("width", [80, 100])
def test_only_commands_and_paths_run_past_the_width(lang: str, width: int) -> None:
    for line in render_console(make_story(), lang=lang, folder=FOLDER, width=width).splitlines():
        assert Text(line).cell_len <= width or "gradbelt run" in line or "report.html" in line


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("kind", ["healthy", "one_step", "empty"])
def test_a_run_without_alarm_is_one_line(lang: str, kind: str) -> None:
    text = render_console(make_story(kind), lang=lang, folder=FOLDER)
    assert text.count("\n") == 1
    assert "train.py" in text
    assert "runs/folder/report.html" in text


def test_the_one_line_tells_of_warnings_and_of_a_script_that_failed_by_itself() -> None:
    warning = Finding(kind="loss_spike", step=7, level=Level.WARN)
    text = render_console(dataclasses.replace(make_story("healthy"), symptoms=(warning,), exit_code=3))
    assert text.count("\n") == 1
    assert "step 7: the loss jumped" in text
    assert "exit code 3" in text


@pytest.mark.parametrize("lang", LANGS)
def test_it_reads_the_same_without_colour(lang: str) -> None:
    bare = render_console(make_story(), lang=lang, folder=FOLDER)
    coloured = render_console(make_story(), lang=lang, folder=FOLDER, color=True)
    assert "\x1b" not in bare
    assert "\x1b[" in coloured
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()]
    assert lines == bare.splitlines()


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = render_console(make_story(), color=True)
    for name, value in {"NO_COLOR": "1", "COLUMNS": "30", "TERM": "dumb", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    assert render_console(make_story(), color=True) == plain


def test_control_characters_and_markup_in_names_do_nothing() -> None:
    story = dataclasses.replace(make_story(), script="\x1b[2J[red]a\nb.py", argv=("\x07",))
    text = render_console(story)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]a b.py" in text


def test_what_was_not_looked_for_is_said_plainly() -> None:
    bare = dataclasses.replace(
        make_story(), origin=None, causes=(), trials=(), prescriptions=(), reproduced=None, symptoms=()
    )
    text = render_console(bare)
    assert text.count("nothing was run again") == 2
    assert "--watch-only" in text


def test_a_cause_is_called_a_guess_where_the_explosion_did_not_repeat() -> None:
    assert "guess" in render_console(dataclasses.replace(make_story(), reproduced=False))


def test_many_trials_are_cut_to_the_best_and_the_rest_is_counted() -> None:
    many = tuple(
        Outcome(remedy=f"r{i}", outcome="learning", steps=9, loss=9.0 - i, metric=0.5, seconds=1.0) for i in range(9)
    )
    control = Outcome(remedy="", outcome="nonfinite", steps=9, loss=None, metric=None, seconds=1.0)
    text = render_console(dataclasses.replace(make_story(), trials=(*many, control)))
    assert "and 5 more" in text
    assert re.findall(r"^ +(r\d) +learns", text, re.MULTILINE) == ["r8", "r7", "r6", "r5"]
    assert "metric" in text


def test_clipping_that_only_hides_an_explosion_is_called_masking() -> None:
    """At every step, and nothing learnt; not where it acts now and then, nor where something is learnt."""

    def shown(outcome: str, rate: float) -> bool:
        trial = Outcome(
            remedy="clip_norm=1.0", outcome=outcome, steps=9, loss=2.0, metric=None, seconds=1.0, clip_rate=rate
        )
        story = dataclasses.replace(make_story(), trials=(trial,))
        return "masked" in render_console(story) and "masked" in render_html(story, make_run())

    assert shown("finite_not_learning", 1.0)
    assert not any(shown(*other) for other in (("finite_not_learning", 0.5), ("learning", 1.0), ("nonfinite", 1.0)))


def test_causes_that_nothing_tells_apart_stay_together_and_are_called_undetermined() -> None:
    shares = {"init": 0.4, "depth": 0.3, "activation": 0.25, "recurrence": 0.05}
    causes = tuple(Suspicion(cause=cause, confidence=share) for cause, share in shares.items())
    story = dataclasses.replace(make_story(), causes=causes)
    text = render_console(story)
    assert [cause in text for cause in shares] == [True, True, True, False]
    assert "undetermined: no trial has told these apart" in text
    assert "undetermined" in render_html(story, make_run())
    assert "trials would tell" in render_console(dataclasses.replace(story, trials=()))
    assert "undetermined" not in render_console(make_story()) + render_html(make_story(), make_run())


def test_the_command_can_be_pasted_into_a_shell() -> None:
    item = Prescription(rank=1, remedies=("skip_step", "clip_norm=1.0"), verified=True, why="")
    story = dataclasses.replace(
        make_story(), script="my train.py", argv=("--name", "a b", "$HOME"), prescriptions=(item,)
    )
    expected = "gradbelt run --with skip_step --with clip_norm=1.0 'my train.py' --name 'a b' '$HOME'"
    assert expected in render_console(story)
    module = dataclasses.replace(story, script="-m pkg.train", argv=())
    assert "gradbelt run --with skip_step --with clip_norm=1.0 -m pkg.train\n" in render_console(module)


@pytest.mark.parametrize("lang", LANGS)
def test_the_first_alarm_is_one_line(lang: str) -> None:
    finding = make_story().symptoms[0]
    line = render_live(finding, lang)
    assert "\n" not in line
    assert "41.5" in line
    assert "48" in line


def test_a_plain_english_message_gives_way_to_the_phrase_of_its_kind_in_japanese() -> None:
    finding = Finding(kind="nan_loss", step=3, level=Level.ALARM, where="train.py:9", message="step 3: loss is nan")
    assert "loss is nan" in render_live(finding, "en")
    assert "損失が NaN になりました（train.py:9）" in render_live(finding, "ja")


def test_reporting_loads_neither_torch_nor_the_page_s_libraries() -> None:
    code = (
        "import sys, gradbelt.report as r; from gradbelt.testing import make_story, make_run;"
        "r.render_console(make_story()); r.write_verdict(make_story()); make_run();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'plotly', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import sys, gradbelt.report.html; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_command_is_offered_that_would_be_refused() -> None:
    """A remedy that this version doesn't have, from the record of another, is named, and that is all."""
    item = Prescription(rank=1, remedies=("longer_warmup",), verified=False, why="")
    assert "gradbelt run --with" not in render_console(dataclasses.replace(make_story(), prescriptions=(item,)))


def test_a_run_that_never_learnt_is_not_called_healthy() -> None:
    dead = Finding(kind="grad_vanishing", step=3, level=Level.WARN, message="the first layers get no gradient")
    quiet = dataclasses.replace(make_story(), exploded=False, first_bad_step=None, symptoms=(dead,), exit_code=0)
    assert "nor did it learn" in render_console(quiet)
    assert "healthy" not in render_console(quiet).splitlines()[0]
