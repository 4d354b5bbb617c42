"""What lives between steps as plain numbers and text, and back: what `Belt.state_dict` is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gradbelt._types import Course, History, Point


def plain(histories: Mapping[int, History], course: Course) -> dict[str, Any]:
    """Both as dicts, lists and numbers."""
    return {
        "histories": {index: asdict(history) for index, history in histories.items()},
        "course": {**asdict(course), "streams": dict(course.streams)},
    }


def remembered(state: Mapping[str, Any]) -> tuple[dict[int, History], Course]:
    """What `plain` was made of, also after JSON, which turns tuples into lists and numbers that are keys into text."""
    histories = {
        int(index): History(
            **{
                **fields,
                "levels": tuple(fields["levels"]),
                "notes": {name: tuple(numbers) for name, numbers in fields.get("notes", {}).items()},
            }
        )
        for index, fields in state["histories"].items()
    }
    course = dict(state["course"])
    course["recent"] = tuple(Point(**point) for point in course["recent"])
    course["window"] = tuple(course["window"])
    return histories, Course(**course)
