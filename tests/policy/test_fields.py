import pytest

from gateway.patterns import compile_pattern
from gateway.policy.fields import seconds


@pytest.mark.parametrize(
    ("written", "expected"),
    [("7d", 604800), ("5m", 300), ("30s", 30), ("1.5h", 5400), ("2w", 1209600), (" 6 h ", 21600), (90, 90)],
)
def test_durations(written, expected):
    assert seconds(written) == expected


@pytest.mark.parametrize("written", ["", "d", "7", "7x", "-1d", "1d12h", "١d\n7", "1e3s"])
def test_what_is_no_duration(written):
    with pytest.raises(ValueError, match="no duration"):
        seconds(written)


def test_patterns_know_case_flags_and_unicode():
    pattern = compile_pattern("(?i)share price|éclair")
    assert pattern.search("The SHARE Price of X")
    assert pattern.search("un ÉCLAIR")
    assert not pattern.search("shareprice")


@pytest.mark.parametrize("pattern", ["(open", "a{2,1}", r"(a)\1", "(?<=x)y"])
def test_a_pattern_re2_refuses(pattern):
    with pytest.raises(ValueError, match="RE2"):
        compile_pattern(pattern)
