"""Engines' own figures: their names, their nonsense, their silence."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BackendUnreachable
from gateway.routing.scrape import Figures, Scraper, metrics_url, parse

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta/Llama 3 {8B}"} 3.0
vllm:num_requests_running{engine="1",model_name="meta/Llama 3 {8B}"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="m"} 0.0
"""


@pytest.mark.parametrize(
    ("page", "report"),
    [
        (VLLM, Figures(5.0, 7.0, 0.75)),
        ("vllm:gpu_cache_usage_perc 0.5 1700000000000\n", Figures(cache=0.5)),
        (
            'sglang:num_running_reqs{tp_rank="0"} 4\nsglang:num_queue_reqs 2\nsglang:token_usage 0.31\n',
            Figures(4.0, 2.0, 0.31),
        ),
        (
            "llamacpp:requests_processing 1\nllamacpp:requests_deferred 9\nllamacpp:kv_cache_usage_ratio 1.7\n",
            Figures(1.0, 9.0, 1.0),
        ),
        ("tgi_queue_size 5\ntgi_batch_current_size 8\n", Figures(8.0, 5.0)),
        ("llamacpp:requests_processing NaN\nllamacpp:requests_deferred -1\n", None),
        ("vllm:num_requests_waiting\nvllm:num_requests_running{\n", None),
        ("<html>Not here</html>", None),
        ("", None),
    ],
)
def test_each_engines_names(page: str, report: Figures | None) -> None:
    assert parse(page) == report


@given(st.text(alphabet='vllm:num_requests_running{}" 0123456789.eE+-\n', max_size=300))
def test_no_page_breaks_it(page: str) -> None:
    report = parse(page)
    assert report is None or (report.running or 0) >= 0


def test_where_metrics_are() -> None:
    assert metrics_url("http://e:1/v1", "auto") == "http://e:1/metrics"
    assert metrics_url("http://e:1/v1", "http://e:9/m") == "http://e:9/m"
    assert metrics_url("http://e:1/v1", "off") == ""


def scraper(pages: dict[str, str | None], told: list[tuple[str, Figures]]) -> Scraper:
    async def fetch(url: str) -> str | None:
        if url not in pages:
            raise BackendUnreachable("down")
        return pages[url]

    return Scraper(lambda: list(pages), fetch, lambda url, report: told.append((url, report)), seconds=0.001)


def test_one_reading() -> None:
    async def story() -> None:
        told: list[tuple[str, Figures]] = []
        reader = scraper({"a": "tgi_queue_size 1", "b": None, "c": "nothing known"}, told)
        assert await reader.once("a")
        assert not await reader.once("b")
        assert not await reader.once("c")
        assert await reader.once("gone"), "an engine that is down is asked as often as before"
        assert told == [("a", Figures(waiting=1.0))]
        assert reader.failures == 1

    asyncio.run(story())


def test_readers_come_and_go_with_the_urls() -> None:
    async def story() -> None:
        told: list[tuple[str, Figures]] = []
        pages: dict[str, str | None] = {"a": "tgi_queue_size 1", "silent": None}
        asked: dict[str, int] = {}
        reader = scraper(pages, told)
        fetch = reader._fetch

        async def counting(url: str) -> str | None:
            asked[url] = asked.get(url, 0) + 1
            return await fetch(url)

        reader._fetch = counting
        running = asyncio.create_task(reader.run())
        await asyncio.sleep(0.1)
        assert asked["a"] > 2 * asked["silent"], "who tells nothing is asked more and more rarely"
        del pages["a"]
        pages["b"] = "tgi_queue_size 2"
        await asyncio.sleep(0.05)
        assert set(reader._readers) == {"silent", "b"}
        running.cancel()
        await asyncio.gather(running, *reader._readers.values(), return_exceptions=True)
        assert ("b", Figures(waiting=2.0)) in told
        assert all(task.done() for task in reader._readers.values())

    asyncio.run(story())
