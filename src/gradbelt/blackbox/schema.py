"""What a black box looks like on disk: one SQLite file, in WAL mode while it is written.

SQLite keeps a NaN as NULL, so NULL in a REAL column reads back as NaN; infinities are kept. `steps.unclipped` is the
one number that may also be absent: there NULL means absent, and a NaN is the text 'nan'.

`steps.stats` is a little-endian float32 matrix of `stat_rows` x P. P and the parameters' names come from the layout,
what the rows are from their number:

    1  gradient norms            3  gradient norms, peaks, zeros
    2  gradient norms, weights   4  gradient norms, weights, peaks, zeros

Weights are norms, a peak is the largest magnitude in a gradient, zeros the share of it that is exactly 0.

`forwards.stats` is one, too: a row each for rms, peak, zeros, dead, flat and entropy, a column for each activation. Of
the steps at which activations were sampled only; their names and kinds come from the layout in `sites`.

`steps.moved` is by what share of itself the update before this step changed each matrix, NaN for what is no matrix.

`steps.piled` is what share of each gradient lies at its largest magnitude, NaN where that says nothing. Of the numbers
that this was told from `steps.exponents` counts how many are of which size, P x BUCKETS bytes, packed by zlib to about
a quarter; and `steps.faint` is what share is nearly lost to float16, NaN for a gradient that is not of it.

Schema 1 had no peaks and zeros, 2 no activations, and the first files of 3 no `steps.scale` and none of the columns
that follow it. They are read as they stand, for what they have means the same.

Raise `SCHEMA` when an older reader would misunderstand a newer file; a column it can ignore needs no new number.
"""

FILENAME = "blackbox.sqlite"

APPLICATION = 0x67626C74
"""SQLite's application_id of our files: "gblt". Tells a black box from any other database."""

SCHEMA = 3
"""Kept as SQLite's user_version."""

ROWS = ("rms", "peak", "zeros", "dead", "flat", "entropy")
"""What is kept of an activation."""

DDL = f"""
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;  -- value: JSON
CREATE TABLE layouts (id INTEGER PRIMARY KEY, names TEXT NOT NULL);           -- names: JSON list of parameters
CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL);            -- a call site of backward
CREATE TABLE steps (
    call INTEGER PRIMARY KEY, step INTEGER NOT NULL, optimizer INTEGER NOT NULL,
    time REAL, lr REAL, total REAL, total_after REAL, action TEXT NOT NULL,
    unclipped,                                                                -- no affinity: NULL, a number or 'nan'
    bad TEXT,                                                                 -- JSON, or NULL where nothing was bad
    layout INTEGER NOT NULL, stat_rows INTEGER NOT NULL, stats BLOB NOT NULL,
    scale REAL,                                                               -- of the loss scaler, or NULL
    moved BLOB,                                                               -- P float32, or NULL
    piled BLOB, exponents BLOB,                                               -- P float32, P x BUCKETS packed; or NULL
    faint BLOB                                                                -- P float32, or NULL
);
CREATE TABLE losses (call INTEGER, stream INTEGER, value REAL, PRIMARY KEY (call, stream)) WITHOUT ROWID;
CREATE TABLE sites (id INTEGER PRIMARY KEY, names TEXT NOT NULL);             -- names: JSON list of [name, kind]
CREATE TABLE forwards (call INTEGER PRIMARY KEY, sites INTEGER NOT NULL, stats BLOB NOT NULL);
CREATE TABLE tail (stream INTEGER PRIMARY KEY, value REAL);                   -- losses after the last step
CREATE TABLE events (
    id INTEGER PRIMARY KEY, call INTEGER NOT NULL, step INTEGER NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL             -- data: JSON
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
COMMIT;
"""
