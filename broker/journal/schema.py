"""The journal's tables, version by version."""

APPLICATION_ID = 0x45564E50
"""'EVNP' in the file's header: other people's databases are refused."""

VERSION = 3

_BATCHES = """
-- Batches under way of campaigns with on_unknown = "hold": written before they leave, gone when they ended.
-- attempts: msgpack, index and attempt of each message in turn.
CREATE TABLE batch (
    number INTEGER PRIMARY KEY,
    campaign INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    attempts BLOB NOT NULL
);
"""
_RETENTION = """
-- A campaign that ended long ago loses its rows and keeps its own, as a summary. `compacted_at` is when that
-- began (ms), `rows_left` says that it goes on. `restored`: a backup had it without all its recipients;
-- it is paused when they have come. A run knows its campaign, to go with it; that of run 0 is 0.
ALTER TABLE campaign ADD COLUMN compacted_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE campaign ADD COLUMN rows_left INTEGER NOT NULL DEFAULT 0;
ALTER TABLE campaign ADD COLUMN restored INTEGER NOT NULL DEFAULT 0;
CREATE INDEX campaign_ended ON campaign (finished_at, number) WHERE finished_at > 0 AND compacted_at = 0;
CREATE INDEX campaign_rows_left ON campaign (number) WHERE rows_left;
ALTER TABLE run ADD COLUMN campaign INTEGER NOT NULL DEFAULT 0;
CREATE INDEX run_campaign ON run (campaign);
"""
_RUNS_CAMPAIGNS = """
UPDATE run SET campaign = coalesce((SELECT id >> 32 FROM address WHERE address.run = run.run LIMIT 1), 0)
    WHERE run <> 0;
"""

CREATE = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE campaign (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    submission TEXT NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    template BLOB NOT NULL,
    options BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expire_at INTEGER NOT NULL,
    phase INTEGER NOT NULL,
    chunks INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    counts BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    unknown INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    marks BLOB,
    finished_at INTEGER NOT NULL DEFAULT 0,
    closed_as INTEGER,
    recount INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX campaign_unfinished ON campaign (number) WHERE finished_at = 0;

-- One row a message. id = campaign number << 32 | index, so a campaign is one range of the table.
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    address TEXT NOT NULL,
    fields BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    code INTEGER,
    reply TEXT,
    worker INTEGER,
    first_at INTEGER,
    last_at INTEGER,
    due_at INTEGER,
    history BLOB
);
CREATE INDEX message_due ON message (id >> 32, due_at) WHERE due_at IS NOT NULL;

-- For trace. An index over all addresses would dirty a page a row, since addresses come in no order. So each
-- chunk of recipients is a run of its own, sorted, and written one after the other; a look-up asks each run.
-- Run 0 takes chunks too small to be worth one.
CREATE TABLE run (run INTEGER PRIMARY KEY);
CREATE TABLE address (
    run INTEGER NOT NULL,
    hash INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (run, hash, id)
) WITHOUT ROWID;
INSERT INTO run VALUES (0);

CREATE TABLE worker (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    server TEXT NOT NULL,
    log TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'ready',
    weight INTEGER NOT NULL DEFAULT 0,
    maxconn INTEGER NOT NULL DEFAULT 0,
    gone INTEGER NOT NULL
);

-- What rates have granted, so that a restart doesn't grant it again.
CREATE TABLE quota (key TEXT PRIMARY KEY, used BLOB NOT NULL) WITHOUT ROWID;

-- Workers keep outcomes and batches by these numbers, across restarts of the broker, and may meet another
-- journal: a new one in this one's place, or this one restored from a backup. So each journal begins at a
-- random place, and each opening jumps ahead at random: what is told of one is never believed of another.
INSERT INTO meta VALUES ('boot', 1 + abs(random() % 1073741824));
INSERT INTO meta VALUES ('campaign', 1 + abs(random() % 1073741824));
"""
    + _BATCHES
    + _RETENTION
)

MIGRATIONS: dict[int, str] = {
    # A campaign's list is read in several parts side by side: unfinished ones are looked through once more.
    1: """
ALTER TABLE campaign DROP COLUMN low_water;
ALTER TABLE campaign ADD COLUMN marks BLOB;
ALTER TABLE worker ADD COLUMN state TEXT NOT NULL DEFAULT 'ready';
ALTER TABLE worker ADD COLUMN weight INTEGER NOT NULL DEFAULT 0;
ALTER TABLE worker ADD COLUMN maxconn INTEGER NOT NULL DEFAULT 0;
UPDATE worker SET state = 'drain' WHERE drained;
ALTER TABLE worker DROP COLUMN drained;
CREATE TABLE quota (key TEXT PRIMARY KEY, used BLOB NOT NULL) WITHOUT ROWID;
""",
    # The file keeps its free pages for itself, as version 2 did: `evenpost-broker compact` rewrites it.
    2: _BATCHES + _RETENTION + _RUNS_CAMPAIGNS,
}
"""From each earlier version to the next one; run in one transaction at opening."""
