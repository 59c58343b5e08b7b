import pytest

from gateway.exchange import Work
from gateway.routing.work import OUTPUT, Lengths, cost


def done(model: str = "m", category: str = "c", size: int = 0) -> Work:
    return Work(0, 0, model, category, size=size)


def test_before_anything_is_known() -> None:
    lengths = Lengths()
    assert lengths.prompt("m", 4000) == 1000
    assert lengths.output("m", "c") == OUTPUT
    assert lengths.output("m", "c", bound=16) == 16


def test_a_category_has_its_own_length_and_a_new_one_its_models() -> None:
    lengths = Lengths()
    for _ in range(50):
        lengths.learn(done(category="code"), None, 800)
        lengths.learn(done(category="chat"), None, 100)
    assert lengths.output("m", "code") == pytest.approx(800, rel=0.1)
    assert lengths.output("m", "chat") == pytest.approx(100, rel=0.1)
    assert lengths.output("m", "poetry") == pytest.approx(450, rel=0.1)
    assert lengths.output("m", "code", bound=200) == pytest.approx(200, rel=0.1)
    assert lengths.output("m", "code", bound=200) <= 200


def test_few_samples_are_not_believed() -> None:
    lengths = Lengths()
    for _ in range(3):
        lengths.learn(done(), None, 5)
    assert lengths.output("m", "c") == OUTPUT


def test_tokens_a_byte_are_learned_per_model() -> None:
    lengths = Lengths()
    for _ in range(20):
        lengths.learn(done(size=1000), 500, None)
    assert lengths.prompt("m", 2000) == 1000
    assert lengths.prompt("other", 2000) == 500


def test_memory_is_bounded_and_what_is_used_stays() -> None:
    lengths = Lengths(capacity=8)
    for i in range(100):
        for _ in range(8):
            lengths.learn(done(category="kept"), None, 900)
            lengths.learn(done(category=f"c{i}"), None, 100)
    assert len(lengths._outputs) <= 8
    assert lengths.output("m", "kept") == pytest.approx(900, rel=0.1)


def test_an_output_token_costs_more_than_a_prompt_token() -> None:
    assert cost(Work(100, 0)) < cost(Work(0, 100))
