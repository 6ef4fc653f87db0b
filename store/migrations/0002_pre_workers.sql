-- Several workers and nodes: who looks after a parked row, blocks handed over, sessions held by
-- lease, numbers that may be used again, and what conservation is counted from. Reasons: DESIGN
-- decisions 5-7, RELIABILITY section 3.

-- submitted counts what is submitted now and final what ended once; before, corrections counted
-- twice and what left `submitted` stayed in it. Counted anew before any lock is taken.
DELETE FROM deltas;
INSERT INTO deltas (process, tenant, accepted, submitted, final)
SELECT 0, m.tenant, count(*), count(*) FILTER (WHERE e.path IN (1, 5)),
  count(*) FILTER (WHERE e.path IN (3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18))
FROM messages m
LEFT JOIN (
  SELECT DISTINCT ON (message_id) message_id, path FROM events
  WHERE path <> 0 ORDER BY message_id, sequence DESC
) e ON e.message_id = m.id
GROUP BY m.tenant;

-- node and slot NULL: a vacant number, to be used again, unless another process (owed_to) still
-- moves what it owed. last_node: on whose disk its journal lies.
ALTER TABLE processes
  ALTER COLUMN node DROP NOT NULL,
  ALTER COLUMN slot DROP NOT NULL,
  ADD COLUMN role text NOT NULL DEFAULT 'all',
  ADD COLUMN last_node text,
  ADD COLUMN owed_to smallint,
  ADD CHECK ((node IS NULL) = (slot IS NULL)),
  ADD CHECK (owed_to IS NULL OR node IS NULL);

-- Who looks after the row; the bits of its id told it before. The default is the writer, so that
-- code of before, which does not name the column, stays right beside ours.
ALTER TABLE parked DISABLE TRIGGER fence;
ALTER TABLE parked
  ADD COLUMN process smallint NOT NULL DEFAULT current_setting('smsgw.process')::smallint;
UPDATE parked SET process = (message_id >> 12) & 1023;
ALTER TABLE parked ENABLE TRIGGER fence;
DROP INDEX parked_due;
CREATE INDEX parked_due ON parked (process, due);
-- Recovery reads what was parked for one reason, page by page.
CREATE INDEX parked_why ON parked (process, why, message_id);

ALTER TABLE webhook_parked DISABLE TRIGGER fence;
ALTER TABLE webhook_parked
  ADD COLUMN process smallint NOT NULL DEFAULT current_setting('smsgw.process')::smallint;
UPDATE webhook_parked SET process = (event_id >> 12) & 1023;
ALTER TABLE webhook_parked ENABLE TRIGGER fence;
DROP INDEX webhook_parked_due;
DROP INDEX webhook_parked_oldest;
CREATE INDEX webhook_parked_due ON webhook_parked (process, endpoint, due)
  WHERE due < 'infinity';
CREATE INDEX webhook_parked_oldest ON webhook_parked (process, event_id)
  WHERE due < 'infinity';

-- A block of messages on its way from one process to another; tenants stands beside ids, for
-- conservation. channel 0: the receiver chooses. The id is the giver's, from its own clock. until:
-- when the first of its messages expires. first_id, last_id: the lowest and highest of ids, so that
-- who asks about a range of messages unnests only the blocks that may hold some of them.
CREATE TABLE handovers (
  id bigint PRIMARY KEY,
  giver smallint NOT NULL,
  receiver smallint NOT NULL,
  channel int NOT NULL,
  class smallint NOT NULL,
  ids bigint[] NOT NULL,
  first_id bigint NOT NULL,
  last_id bigint NOT NULL,
  tenants int[] NOT NULL CHECK (cardinality(tenants) = cardinality(ids)),
  until timestamptz NOT NULL DEFAULT 'infinity',
  at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX handovers_receiver ON handovers (receiver, class, id);
CREATE INDEX handovers_giver ON handovers (giver);
CREATE INDEX handovers_range ON handovers (last_id, first_id);

-- The newest handover each process wrote. A flush whose connection broke runs again; without
-- this a block that the receiver took meanwhile would be handed over a second time.
CREATE TABLE handover_marks (
  process smallint PRIMARY KEY,
  last_id bigint NOT NULL
) WITH (fillfactor = 50);

-- Who has a session of which channel now. A registry: no promise hangs on it.
CREATE TABLE process_channels (
  process smallint,
  channel int,
  sessions smallint NOT NULL,
  is_up boolean NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (process, channel)
) WITH (fillfactor = 50);

-- Who may hold which session of a channel on a node. Free: no row, or a holder whose epoch or
-- lease is over.
CREATE TABLE channel_sessions (
  node text,
  channel int,
  slot smallint,
  process smallint NOT NULL,
  epoch int NOT NULL,
  PRIMARY KEY (node, channel, slot)
);

-- What each owner says it holds in memory, by tenant, and what it counted as open (accepted less
-- submitted less final) in the flushes it knew to be committed at that moment. Tenant 0: it spoke.
CREATE TABLE holdings (
  process smallint,
  tenant int,
  held int NOT NULL,
  opened bigint NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (process, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON handovers
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON holdings
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
-- An owner that woke up too late must not touch what stands for a carrier's report either.
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON parked_reports
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
