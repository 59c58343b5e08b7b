"""One value is set in the text of a policy file, and nothing else is touched."""

import pytest
import yaml

from gateway.policy.edit import Files

THRESHOLD, SCORE = ("cache", "threshold"), ("cache", "verify", "score")


@pytest.mark.parametrize(
    ("category", "path"),
    [
        ("{name: a, cache: {mode: shadow, threshold: 0.9}}", THRESHOLD),
        ("{name: a, cache: {mode: shadow}}", THRESHOLD),
        ("{name: a, cache: {}}", THRESHOLD),
        ("{name: a}", THRESHOLD),
        ('{"name": "a", "cache": {"threshold": 0.9}}', THRESHOLD),
        ("\n    name: a\n    cache:\n      mode: shadow  # why\n      threshold: 0.9\n", THRESHOLD),
        ("\n    name: a\n    cache:\n      mode: shadow\n", THRESHOLD),
        ("\n    name: a\n    offload: {allow: false}\n", THRESHOLD),
        ("{name: a, cache: {verify: {above: 0.8, score: 0.9}}}", SCORE),
        ("\n    name: a\n    cache:\n      verify:\n        above: 0.8\n        score: 0.5  # low\n", SCORE),
    ],
)
@pytest.mark.parametrize("start", ["# first\n", "\ufeff# first\r\n", "# first\u2028# line\n"])
def test_one_value_is_set_and_nothing_else_is_touched(
    category: str, path: tuple[str, ...], start: str
) -> None:
    body = f"{start}categories:\n  - {category}\n  - {{name: b, cache: {{threshold: 0.9}}}}\n# last"
    old, change = Files({"f.yaml": body}), (path, 0.8765)
    new = old.changed({"a": change, "unknown": change})
    before, after = (yaml.safe_load(files.texts["f.yaml"]) for files in (old, new))
    place = before["categories"][0]
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = 0.8765
    assert after == before
    assert new.texts["f.yaml"].startswith(start)
    assert new.texts["f.yaml"].endswith("# last")
    assert new.texts["f.yaml"].count("#") == body.count("#")
    assert new.book().category("b") == old.book().category("b")
    assert old.names == {"a", "b"}


def test_a_value_is_written_as_people_write_it() -> None:
    old = Files({"f.yaml": "categories: [{name: a, cache: {threshold: 0.9}}]\n"})
    for value, text in ((1.0, "1.0"), (0.95, "0.95"), (0.9501, "0.9501")):
        assert old.changed({"a": (THRESHOLD, value)}).texts["f.yaml"].count(f"threshold: {text}}}") == 1


def test_what_does_not_change_has_no_diff() -> None:
    files = Files({"f.yaml": "categories: [{name: a}]\n", "g.yaml": "ignore: [user]\n"})
    assert files.diff(files.changed({})) == ""
    assert "g.yaml" not in files.diff(files.changed({"a": (THRESHOLD, 0.9)}))
