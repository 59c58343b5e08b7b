"""Hypothesis strategies for valid books in JSON."""

from hypothesis import settings
from hypothesis import strategies as st

patient = settings(deadline=None, max_examples=60)  # time limits are for bench, not for shared test machines

NAMES = ["code", "medical", "secret", "market-data", "x.1"]
MODES = ["semantic", "shadow", "exact", "none"]


def _some(**optional):
    return st.fixed_dictionaries({}, optional=optional)


_numbers = st.floats(0, 1, allow_nan=False)
_words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=20)
_ttls = st.one_of(
    st.sampled_from(["30s", "5m", "6h", "7d", "1.5h"]), st.integers(1, 86400), st.floats(1, 86400)
)
caches = _some(
    mode=st.sampled_from(MODES),
    threshold=st.floats(0.70, 1.0),
    ttl=_ttls,
    quota=_some(share=st.floats(0, 0.15)),
    priority=st.floats(0, 10),
    max_temperature=st.one_of(st.none(), st.floats(0, 2)),
    max_error=st.one_of(st.none(), st.floats(0.001, 0.999)),
)
loads = _some(
    threshold_slack=st.floats(0, 0.2), threshold_floor=st.floats(0.70, 1.0), ttl_factor=st.floats(1, 2)
)
bodies = _some(
    examples=st.lists(_words, max_size=4),
    cache=caches,
    load=loads,
    offload=_some(allow=st.booleans(), max_quality_loss=_numbers),
)


@st.composite
def books(draw):
    names = draw(st.lists(st.sampled_from([*NAMES, "default"]), unique=True))
    rule = st.fixed_dictionaries(
        {
            "when": _some(
                tenant=st.sampled_from(["acme", "b"]),
                model=st.sampled_from(["large", "small"]),
                endpoint=st.sampled_from(["chat", "completions"]),
                header=st.dictionaries(st.sampled_from(["x-team", "X-Org"]), _words, max_size=1),
                match=st.sampled_from(["(?i)price", "^how", "a.c"]),
            ),
            "then": st.fixed_dictionaries({"category": st.sampled_from([*names, "default"])}),
        }
    )
    return {
        "categories": [{"name": name, **draw(bodies)} for name in names],
        "ignore": draw(st.lists(st.sampled_from(["user", "trace_id"]), max_size=2)),
        "rules": draw(st.lists(rule, max_size=4)),
        "guard": draw(_some(checks=st.just(["number", "order"]), skip=st.just(["order"]))),
    }
