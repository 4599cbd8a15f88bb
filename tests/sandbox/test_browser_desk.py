"""The simulated Zendesk's page in a real browser."""

from __future__ import annotations

import pytest
import requests
from browser import opened, serious_faults
from playwright.sync_api import Browser, expect

from sandbox.server import Server
from sandbox.zendesk import FakeZendesk


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1440, "dark")])
def test_an_agent_submits_a_state_and_the_next_ticket_shows_its_own(browser: Browser, width: int, scheme: str) -> None:
    fake = FakeZendesk()
    with Server(fake.app) as server, opened(browser, server.url, width, color_scheme=scheme) as page:
        for post in ("twitter:1", "twitter:2"):
            ticket = {"subject": f"Jo {'x' * 90}", "external_id": post, "comment": {"body": "Hello"}}
            login = (f"{fake.user_email}/token", fake.api_token)
            made = requests.post(f"{server.url}/api/v2/tickets", json={"ticket": ticket}, auth=login, timeout=30)
            assert made.status_code == 201
        page.locator("#ticket-1001").click()
        page.get_by_label("Status").select_option("solved")
        page.get_by_role("button", name="Submit").click()
        expect(page.locator("#ticket-1001 .status")).to_have_text("Solved")
        expect(page.locator("#opened .status").first).to_have_text("Solved")
        page.locator("#ticket-1002").click()
        expect(page.get_by_label("Status")).to_have_value("new")
        assert serious_faults(page) == []
        assert [ticket.status for ticket in fake.tickets] == ["solved", "new"]
