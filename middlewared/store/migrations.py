"""The shape of the store, version by version.

Each script takes the store from the version before it to its own, in one transaction with `PRAGMA user_version`. A
script that was released is never edited: a change is a new script at the end.

Columns whose comment says JSON are TEXT. Times end in `_ms` (UTC, since the epoch).
"""

_VERSION_1 = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO meta (key, value) VALUES ('epoch', 0), ('seq', 0);

CREATE TABLE failover_config (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    disabled INTEGER NOT NULL DEFAULT 0,
    master_node TEXT CHECK (master_node IN ('A', 'B')),
    timeout_s INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO failover_config (id) VALUES (1);

CREATE TABLE interface_config (
    name TEXT PRIMARY KEY,
    critical INTEGER NOT NULL DEFAULT 0,
    failover_group INTEGER,
    description TEXT NOT NULL DEFAULT '',
    aliases TEXT NOT NULL DEFAULT '[]',          -- JSON list
    virtual_aliases TEXT NOT NULL DEFAULT '[]'   -- JSON list of "address/prefix"
) STRICT;

CREATE TABLE user (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL UNIQUE,
    full_name TEXT NOT NULL DEFAULT '',
    uid INTEGER UNIQUE,                          -- who this is on the unix socket; NULL: nobody
    password_hash TEXT,                          -- argon2id, encoded; NULL: no login by password
    otp_secret TEXT,                             -- base32 (RFC 4648); NULL: no second factor
    locked INTEGER NOT NULL DEFAULT 0,
    builtin INTEGER NOT NULL DEFAULT 0,
    groups TEXT NOT NULL DEFAULT '[]',           -- JSON list of group names
    attributes TEXT NOT NULL DEFAULT '{}'        -- JSON object, the user's own
) STRICT;

CREATE TABLE api_key (
    id INTEGER PRIMARY KEY AUTOINCREMENT,        -- never used twice: it is part of the key's text
    name TEXT NOT NULL UNIQUE,
    username TEXT NOT NULL REFERENCES user (username) ON DELETE CASCADE ON UPDATE CASCADE,
    salt TEXT NOT NULL,                          -- base64, like the two keys
    iterations INTEGER NOT NULL,
    stored_key TEXT NOT NULL,
    server_key TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX api_key_username ON api_key (username);

CREATE TABLE privilege (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    builtin INTEGER NOT NULL DEFAULT 0,
    groups TEXT NOT NULL DEFAULT '[]',           -- JSON list of group names
    roles TEXT NOT NULL DEFAULT '[]',            -- JSON list
    allowlist TEXT NOT NULL DEFAULT '[]'         -- JSON list of {"method", "resource"}
) STRICT;
INSERT INTO privilege (name, builtin, groups, roles, allowlist) VALUES
    ('Local Administrator', 1, '["builtin_administrators"]', '["FULL_ADMIN"]', '[{"method": "*", "resource": "*"}]'),
    ('Read-Only Administrator', 1, '["readonly_administrators"]', '["READONLY_ADMIN"]', '[]');

CREATE TABLE service_config (
    name TEXT PRIMARY KEY,
    enabled INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE alert_dismissed (
    uuid TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
) STRICT;
"""

_VERSION_2 = """
CREATE TABLE epoch (
    epoch INTEGER PRIMARY KEY,                   -- of meta; what was before the first row is not known
    base_seq INTEGER NOT NULL,                   -- meta's seq when it began
    node TEXT CHECK (node IN ('A', 'B'))         -- who began it; NULL: an installer
) STRICT;
"""

_VERSION_3 = """
CREATE TABLE interface_links (
    generation TEXT PRIMARY KEY CHECK (generation IN ('STAGED', 'COMMITTED', 'PREVIOUS')),
    links TEXT NOT NULL,                         -- JSON list of objects (plugins/interface/links.py)
    deadline_ms INTEGER                          -- of PREVIOUS: it holds again from then on, unless somebody checks in
) STRICT;
INSERT INTO interface_links (generation, links) VALUES ('COMMITTED', '[]');

ALTER TABLE interface_config DROP COLUMN aliases;
ALTER TABLE interface_config
    ADD COLUMN own_aliases TEXT NOT NULL DEFAULT '{}';  -- JSON: what is COMMITTED as {"A": ["address/prefix"], "B": []}
"""

_VERSION_4 = """
ALTER TABLE service_config ADD COLUMN unit TEXT NOT NULL DEFAULT '';             -- systemd's; '': the name and .service
ALTER TABLE service_config ADD COLUMN start_order INTEGER NOT NULL DEFAULT 50;   -- lower ones first, equal ones at once
ALTER TABLE service_config ADD COLUMN critical INTEGER NOT NULL DEFAULT 1;       -- runs before traffic is let in
"""

_VERSION_5 = """
CREATE TABLE log (                               -- what was changed, by transaction (store/log.py); bounded
    seq INTEGER PRIMARY KEY,                     -- meta's, after it
    epoch INTEGER NOT NULL,                      -- meta's, after it
    epoch_before INTEGER NOT NULL,               -- it leads on from (epoch_before, seq - 1)
    schema_version INTEGER NOT NULL,
    sequences TEXT NOT NULL,                     -- JSON object: sqlite_sequence, after it
    bytes_logged INTEGER NOT NULL,               -- of `changes`, of all entries up to this one
    changes BLOB NOT NULL                        -- a changeset of SQLite's session extension
) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5)

SCHEMA_VERSION = len(MIGRATIONS)
