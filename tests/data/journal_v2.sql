-- The journal of version 2, as Evenpost wrote it before it kept batches and summaries.
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
