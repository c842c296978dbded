"""Somebody else on the network uses one of our virtual router ids: an alert for as long as it does."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from middlewared.plugins.failover.controller import FailoverController
from middlewared.plugins.failover.methods import Failover
from middlewared.ports import Stranger


def test_an_alert_names_the_stranger_until_it_stops(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.use(Failover)
    controller: FailoverController = bench.plugin.controller
    heard: list[Stranger] = []
    speaker = SimpleNamespace(strangers=lambda: heard)
    monkeypatch.setattr(controller, "_ports", dataclasses.replace(controller._ports, virtual_ips=speaker))
    monkeypatch.setattr(controller, "mine", lambda: SimpleNamespace(interfaces=(), licensed=False))
    for name in ("_post_news", "_configure_speaker", "_check_fence", "_publish"):
        monkeypatch.setattr(controller, name, lambda *_: None)

    def texts() -> list[str]:
        controller.look()
        found = [alert for alert in bench.context.alerts.list() if alert["key"].startswith("failover.stranger.")]
        return [alert["text"] for alert in found]

    assert texts() == []
    heard.append(Stranger("eth0", 7, "192.0.2.9"))
    [text] = texts()
    assert all(word in text for word in ("192.0.2.9", "eth0", "router id 7", "network.router_id_base"))
    heard[:] = [Stranger("eth0", 7, "192.0.2.8")]
    [text] = texts()
    assert "192.0.2.8" in text
    heard.clear()
    assert texts() == []
