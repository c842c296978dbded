"""The dashboard on the whole screen."""

from support.terminal import CTRL_C, DOWN


def test_the_dashboard_follows_events_and_lost_connections(start, server):
    server.methods["failover.explain"] = []
    server.methods["failover.history"] = lambda filters, options: []
    watch = start("watch")
    watch.shows("midctl watch  nodea", "Controllers", "A  MASTER", "B  BACKUP", "works", "q leave")
    server.methods["failover.explain"] = [
        {"code": "NO_PONG", "since": None, "evidence": "no answer from B", "remedy": "Check the cable."}
    ]
    server.emit("failover.disabled.reasons", msg="changed", fields={"disabled_reasons": ["NO_PONG"]})
    watch.shows("NO_PONG", "no answer from B", "→ Check the cable.")
    server.methods["failover.node"] = "B"
    server.drop()
    watch.shows("B  MASTER", "A  BACKUP")
    assert "Trying to reach" not in watch.text, "the dashboard says it itself"
    watch.send(DOWN, DOWN).hides("Controllers")
    watch.send("q")
    assert watch.ends() == 0


def test_watch_from_the_shell_and_back(shell):
    shell.send("watch\r").shows("Controllers")
    shell.send(CTRL_C)
    shell.hides("Controllers")
    shell.shows("[nodea]>")
