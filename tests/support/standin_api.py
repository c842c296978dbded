"""What the stand-in server publishes and answers: the administrator's commands, and methods to provoke with."""

from typing import Any

Schema = dict[str, Any]


def schema(name: str, kind: Any = "string", *, required: bool = False, **more: Any) -> Schema:
    """One argument or property as core.get_methods describes it (PROTOCOL 9.4)."""
    return {"_name_": name, "title": name, "_required_": required, "type": kind, **more}


def obj(name: str, *properties: Schema, required: bool = False, **more: Any) -> Schema:
    return schema(
        name,
        "object",
        required=required,
        additionalProperties=False,
        _attrs_order_=[each["_name_"] for each in properties],
        properties={each["_name_"]: each for each in properties},
        **more,
    )


def entry(summary: str, *accepts: Schema, job: bool = False, examples: Any = None, filterable: bool = False) -> Any:
    return {
        "description": f"{summary}.\n\nLonger text about it.",
        "cli_description": summary,
        "examples": {"cli": examples} if examples else {},
        "filterable": filterable,
        "filterable_schema": None,
        "job": job,
        "accepts": list(accepts),
        "returns": [],
        "danger": None,
        "secrets": [],
    }


def dangerous(text: str, described: Any, when: Any = None, rehearsal: str | None = None) -> Any:
    danger = {"text": text, **({"when": when} if when else {}), **({"rehearsal": rehearsal} if rehearsal else {})}
    return {**described, "danger": danger}


def service(kind: str, words: str, summary: str | None = None) -> Any:
    return {"type": kind, "config": {"cli_namespace": words, "cli_description": summary}}


SERVICES = {
    "failover": service("config", "system.failover", "High availability"),
    "failover.disabled": service("service", "system.failover.disabled"),
    "user": service("crud", "account.user", "Users"),
    "api_key": service("crud", "account.api_key", "API keys"),
    "pool": service("crud", "storage.pool", "Pools"),
    "test": service("service", "test", "To provoke with"),
}

USER = (
    schema("full_name"),
    schema("password"),
    schema("groups", "array", items=[{"type": "string"}]),
    obj("quota", schema("bytes", "integer", required=True, minimum=0), schema("files", "integer")),
)
USERNAME = schema("username", required=True, description="How the user is called.")
USER_ID = schema("id", "integer", required=True, **{"x-choices": {"method": "user.query", "column": "id"}})

METHODS = {
    "failover.config": entry("Show the failover configuration"),
    "failover.update": entry(
        "Change the failover configuration",
        obj(
            "data",
            schema("disabled", "boolean", description="Turn failover off."),
            schema("master", ["boolean", "null"]),
            schema("timeout", "integer", default=0, minimum=0, maximum=120),
            required=True,
        ),
    ),
    "failover.control": dangerous(
        "Failover is switched off.",
        entry(
            "Enable or disable failover",
            schema("action", required=True, enum=["ENABLE", "DISABLE"], description="What to do."),
            obj("options", schema("active", "boolean", default=True), default={}),
            examples=["system failover control action=ENABLE options={}"],
        ),
        when={"action": "DISABLE"},
    ),
    "failover.disabled.reasons": entry("Why failover would not work"),
    "failover.force_master": dangerous(
        "The disks are taken by force.", entry("Make this controller MASTER"), rehearsal="failover.rehearse"
    ),
    "failover.get_ips": entry("URLs of the web interface"),
    "failover.hardware": entry("Kind of chassis"),
    "failover.in_progress": entry("Is a failover running"),
    "failover.licensed": entry("Is this a licensed pair"),
    "failover.node": entry("Which controller this is"),
    "failover.status": entry("MASTER or SLAVE"),
    "failover.sync_from_peer": entry("Fetch the configuration from the other controller"),
    "failover.sync_to_peer": entry(
        "Send the configuration to the other controller", obj("options", schema("reboot", "boolean"), default={})
    ),
    "failover.upgrade_pending": entry("Is an upgrade pending"),
    "failover.upgrade_finish": entry("Finish an upgrade", job=True),
    "user.create": {
        **entry("Create a user", obj("data", USERNAME, *USER, required=True)),
        "secrets": ["data.password"],
    },
    "user.update": {
        **entry("Change a user", USER_ID, obj("data", *USER, required=True)),
        "secrets": ["data.password"],
    },
    "user.delete": entry("Delete a user", USER_ID),
    "api_key.create": entry("Create an API key", obj("data", schema("name"), required=True)),
    "pool.query": {
        **entry("List pools", filterable=True),
        "filterable_schema": obj("row", *map(schema, ("id", "name", "topology", "scan", "paths"))),
    },
    "test.echo": entry(
        "Return the arguments",
        schema("text"),
        schema("number", "integer", default=7),
        schema("list", "array", items=[{"type": "integer"}]),
        {"_name_": "any", "_required_": False},
    ),
    "test.fail": entry("Fail"),
    "test.invalid": entry("Be invalid"),
    "test.job": entry("Run a job", schema("ending"), job=True),
    "test.value": entry("Return a value"),
}

RESULTS: dict[str, Any] = {
    "failover.config": {"id": 1, "disabled": False, "timeout": 0, "master": True},
    "failover.update": {"id": 1, "disabled": True, "timeout": 0, "master": True},
    "failover.control": False,
    "failover.disabled.reasons": [],
    "failover.force_master": False,
    "failover.get_ips": [
        "http://10.220.148.12",
        "http://10.220.16.85",
        "https://10.220.148.12",
        "https://10.220.16.85",
    ],
    "failover.hardware": "ECHOWARP",
    "failover.in_progress": False,
    "failover.licensed": True,
    "failover.node": "A",
    "failover.status": "MASTER",
    "failover.rehearse": {
        "node": "B",
        "would_work": True,
        "failures": [],
        "checks": [{"name": "peer", "subject": "A", "ok": True, "detail": "leads", "remedy": ""}],
    },
    "system.hostname": "nodea.example.org",
    "user.query": [{"id": 70, "username": "eve"}, {"id": 71, "username": "adam"}],
    "user.get_instance": {"id": 70, "username": "eve", "full_name": "Eve", "groups": ["staff"]},
    "failover.sync_from_peer": None,
    "failover.sync_to_peer": None,
    "failover.upgrade_pending": False,
    "user.create": {"id": 70, "username": "eve"},
    "user.update": {"id": 70},
    "user.delete": True,
    "api_key.create": {"id": 1, "name": "backup", "key": "1-abc"},
    "pool.query": [
        {"id": 1, "name": "tank", "topology": {"data": [{"type": "MIRROR"}]}, "paths": ["/a", "/b"]},
        {"id": 2, "name": "dozer", "scan": None, "topology": {}, "paths": []},
    ],
}
