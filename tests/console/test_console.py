"""The console in Chromium: every panel, a policy edited and put back, an entry purged, the playground, roles; nothing serious for axe."""

import re
from collections.abc import Callable
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, expect

from tests.console.conftest import KEY, ROLES, TOKEN, Open
from tests.harness import Running

PANELS = [
    "Overview", "Traffic", "Trust", "Savings", "Backends", "Policies", "Entries", "Playground", "Tenants", "Audit",
]  # fmt: skip


def open_panel(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
    page.locator("main > div:not([aria-busy]) > h1").wait_for()


def serious(page: Page, options: dict[str, Any]) -> list[str]:
    """The pictures are left out: each is one image with a name, beside a table."""
    run = "options => axe.run({exclude: [['.chart']]}, {resultTypes: ['violations'], preload: false, ...options})"
    return [
        f"{each['id']}: {node['html']}"
        for each in page.evaluate(run, options)["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_the_panels_show_what_the_gateway_did(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at)
    table = page.get_by_role("table", name=re.compile("^Hit rate of the last hour"))
    expect(table.get_by_role("row", name=re.compile("^default"))).to_contain_text(
        "50 %"
    )  # 2 of 4, the refused one among them
    expect(page.locator("dl.tiles")).to_contain_text("1 of 1")
    expect(page.get_by_role("table", name="Requests of the last hour by decision")).to_contain_text(
        "semantic"
    )
    expect(page.locator(".chart .main-svg").first).to_be_visible()
    open_panel(page, "Trust")
    row = page.get_by_role("table", name="False-hit rate of each category").get_by_role("row", name="default")
    expect(row).to_contain_text("1 good, 0 bad")
    open_panel(page, "Savings")
    ledger = page.get_by_role("table", name="By tenant, category and way")
    expect(ledger.get_by_role("row", name=re.compile("semantic"))).to_contain_text("t:acme")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.path().read_text().startswith("tenant,category,how,calls")
    open_panel(page, "Tenants")
    tenant = page.get_by_role("table", name="1 tenant").get_by_role("row", name="acme")
    expect(tenant).to_contain_text(re.compile(r"\d of 600"))
    expect(tenant).to_contain_text("$0.00 of $50.00")
    expect(tenant).to_contain_text("web, ci")
    assert KEY not in page.content()


def test_traffic_is_searched(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at, panel="traffic")
    rows = page.get_by_role("table").locator("tbody tr")
    page.get_by_label("Holds the text").fill("capital")
    expect(rows).to_have_count(3)
    page.get_by_label("Decision", exact=True).select_option("semantic")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("What is France's capital?")


def test_axe_finds_nothing_serious_in_light_and_dark(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at)
    page.evaluate(AXE_SCRIPT)
    for name in PANELS:
        open_panel(page, name)
        page.evaluate("document.documentElement.dataset.theme = 'light'")
        assert serious(page, {}) == [], f"{name} in light"
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        assert serious(page, {"runOnly": ["color-contrast"]}) == [], f"{name} in dark"


def test_a_theme_is_chosen_and_kept(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at, panel="audit")
    for expected in ("light", "dark"):
        page.get_by_role("button", name="Theme").click()
        expect(page.locator("html")).to_have_attribute("data-theme", expected)
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_gateway_that_did_nothing_says_so(visit: Open, start: Callable[..., Running]) -> None:
    page = visit(start())
    for name, words in {
        "Overview": "No requests yet",
        "Traffic": "No requests yet",
        "Trust": "Nothing known yet",
        "Savings": "Nothing saved yet",
        "Entries": "Nothing stored yet",
        "Tenants": "No tenants are configured",
        "Audit": "Nothing recorded yet",
    }.items():
        open_panel(page, name)
        expect(page.locator("main .empty").first).to_contain_text(words)


def test_a_backend_is_drained_and_enabled_and_both_are_recorded(visit: Open, busy: Running) -> None:
    page = visit(busy, panel="backends")
    expect(page.get_by_role("table", name="Backends of *")).to_contain_text("healthy")
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("table", name="Backends of *")).to_contain_text("drained")
    assert busy.app.fleet.backends[0].draining
    page.get_by_role("button", name="Enable").click()
    expect(page.get_by_role("table", name="Backends of *")).to_contain_text("healthy")
    open_panel(page, "Audit")
    rows = page.get_by_role("table").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.last).to_contain_text("backends.drain")
    expect(rows.last).to_contain_text("admin@")


def test_a_policy_is_tried_on_recent_traffic_saved_and_put_back(visit: Open, busy: Running) -> None:
    page = visit(busy, panel="policies")
    page.get_by_label("Category", exact=True).select_option("default")
    page.get_by_label("Threshold", exact=True).fill("0.99")
    page.get_by_label("Threshold", exact=True).blur()
    page.get_by_role("button", name="Validate and try").click()
    expect(page.get_by_role("table", name="What would change")).to_contain_text("0.99")
    expect(page.locator("dl.tiles div", has_text="Hits fewer")).to_contain_text("1")
    assert busy.app.policy.book.category("default").cache.threshold == 0.9
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text("In force now")
    assert busy.app.policy.book.category("default").cache.threshold == 0.99
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=re.compile("Put back version")).last.click()
    expect(page.locator("#said")).to_contain_text("is in force again")
    assert busy.app.policy.book.category("default").cache.threshold == 0.9


def test_a_bad_policy_is_refused_with_its_reasons(visit: Open, looked_at: Running) -> None:
    page, before = visit(looked_at, panel="policies"), looked_at.app.policy.book.version
    text = page.get_by_label("The whole category as JSON")
    expect(text).to_have_value(re.compile("mode"))
    text.fill(re.sub(r'"mode": "\w+"', '"mode": "sometimes"', text.input_value(), count=1))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("table", name="Faults")).to_contain_text("mode")
    assert looked_at.app.policy.book.version == before


def test_an_entry_is_found_read_and_purged(visit: Open, busy: Running) -> None:
    page = visit(busy, panel="entries")
    page.get_by_label("Question holds").fill("REVERSE a list")
    page.get_by_role("button", name="Search").click()
    rows = page.get_by_role("table", name="Entries, newest first").locator("tbody tr")
    expect(rows).to_have_count(1)
    page.get_by_text("How do I reverse a list in Python?").click()
    expect(page.locator(".answer")).to_have_text("Paris is the capital of France.")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=re.compile("Purge entry")).click()
    expect(page.locator("#said")).to_contain_text("1 purged")
    assert [entry.question for entry in busy.app.cache.catalog.entries()] == [
        "What is the capital of France?"
    ]


def test_the_playground_shows_why_beside_what(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at, panel="playground")
    page.get_by_label("Model").fill("m")
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("Prompt", exact=True).fill("What is France's capital?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("table", name="Candidates, nearest first")).to_contain_text("ok")
    expect(page.locator(".answer")).to_have_text("Paris is the capital of France.")
    page.locator("summary", has_text="Headers").click()
    expect(page.get_by_role("table", name="Headers")).to_contain_text("semantic")
    page.get_by_label("Prompt", exact=True).fill("What is the capital of Peru?")
    page.get_by_role("button", name="Only explain").click()
    expect(page.locator("main")).to_contain_text("below-threshold")
    expect(page.locator("main")).to_contain_text("Not asked.")


def test_a_reader_is_told_what_it_may_not_do(visit: Open, looked_at: Running) -> None:
    page, before = visit(looked_at, ROLES["read"], "entries"), len(looked_at.app.cache.catalog)
    expect(page.locator("#me")).to_have_text("reader, read")
    purge = page.get_by_role("button", name=re.compile("Purge entry")).first
    expect(purge).to_be_disabled()
    expect(purge).to_have_attribute("title", "This needs the role admin; yours is read.")
    purge.dispatch_event("click")
    expect(page.locator("#said")).to_contain_text("This needs the role admin")
    assert len(looked_at.app.cache.catalog) == before
    open_panel(page, "Policies")
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    open_panel(page, "Playground")
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    page.get_by_label("Model").fill("m")
    page.get_by_label("Tenant").fill("acme")
    page.get_by_label("Prompt", exact=True).fill("What is France's capital?")
    page.get_by_role("button", name="Only explain").click()
    expect(page.get_by_role("table", name="Candidates, nearest first")).to_contain_text("ok")


def test_who_steers_policies_purges_nothing(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at, ROLES["policy"], "policies")
    expect(page.get_by_role("button", name="Save")).to_be_enabled()
    open_panel(page, "Backends")
    expect(page.get_by_role("button", name="Drain")).to_be_disabled()


def test_a_wrong_token_is_asked_for_again(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at, token="")
    for token in ("wrong", TOKEN):
        page.get_by_label("Token", exact=True).fill(token)
        page.get_by_role("button", name="Sign in").click()
    expect(page.locator("dl.tiles")).to_be_visible()
    expect(page.locator("#me")).to_have_text("admin, admin")


def test_it_works_by_keyboard_and_on_a_phone(visit: Open, looked_at: Running) -> None:
    page = visit(looked_at)
    expect(page.locator("dl.tiles")).to_be_visible()
    page.set_viewport_size({"width": 360, "height": 740})
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Traffic")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_have_text("Live traffic")
    for name in PANELS:
        open_panel(page, name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
