-- The first schema: messages written once, events appended, what must survive beside them, and
-- the configuration. Units and reasons: DESIGN decisions 2-5, 11, 13.
-- id = milliseconds since 2026-01-01 << 22 | process (10 bits) << 12 | counter (12 bits).

CREATE TABLE processes (
  process smallint PRIMARY KEY CHECK (process BETWEEN 0 AND 1023),
  epoch int NOT NULL,
  node text NOT NULL,
  slot smallint NOT NULL,
  lease_until timestamptz NOT NULL,
  id_high_water bigint NOT NULL,
  low_water bigint NOT NULL,
  event_cursor bigint NOT NULL,
  UNIQUE (node, slot)
);

-- flags: bits 0-2 carrier, 3-4 on_uncertain (0 = class default), 8-17 calling code.
-- number, body, options are sealed; options holds what few messages have (client_ref, metadata …).
CREATE TABLE messages (
  id bigint,
  tenant int NOT NULL,
  number_index bigint NOT NULL,
  number bytea NOT NULL,
  body bytea NOT NULL,
  options bytea,
  class smallint NOT NULL,
  encoding smallint NOT NULL,
  segments smallint NOT NULL,
  flags int NOT NULL,
  valid_until timestamptz NOT NULL,
  created_at timestamptz NOT NULL,
  send_at timestamptz,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX ON messages (tenant, id);
CREATE INDEX ON messages (number_index, id);

-- channel 0 = none; segment NULL = the row is about the whole message; times in milliseconds.
CREATE TABLE events (
  message_id bigint,
  sequence smallint,
  event_id bigint NOT NULL,
  tenant int NOT NULL,
  path smallint NOT NULL,
  status smallint NOT NULL,
  segment smallint,
  copy smallint NOT NULL,
  channel smallint NOT NULL,
  carrier_id text,
  code text,
  reason smallint,
  times int[],
  at timestamptz NOT NULL,
  PRIMARY KEY (message_id, sequence)
) PARTITION BY RANGE (message_id);
CREATE INDEX ON events (channel, carrier_id) WHERE carrier_id IS NOT NULL;
-- The cursor's read-back after a restart; unsummarised ranges are read whole, so it is never wrong.
CREATE INDEX ON events USING brin (event_id) WITH (pages_per_range = 32, autosummarize = on);

-- Small tables with much coming and going are vacuumed early, or scans would walk dead rows.
CREATE TABLE claims (
  process smallint NOT NULL,
  block bigint NOT NULL,
  ids bigint[] NOT NULL,
  PRIMARY KEY (process, block)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE deltas (
  process smallint NOT NULL,
  tenant int NOT NULL,
  accepted bigint NOT NULL,
  submitted bigint NOT NULL,
  final bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE batches (
  first_id bigint PRIMARY KEY,
  last_id bigint NOT NULL,
  tenant int NOT NULL,
  state smallint NOT NULL DEFAULT 0,
  at timestamptz NOT NULL,
  verdicts bytea
);

CREATE TABLE parked (
  message_id bigint PRIMARY KEY,
  due timestamptz NOT NULL,
  why smallint NOT NULL,
  class smallint NOT NULL,
  tenant int NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX parked_due ON parked (((message_id >> 12) & 1023), due);

-- A report for a message that is not submitted yet, or for an id nobody knows. raw is sealed.
CREATE TABLE parked_reports (
  id bigint PRIMARY KEY,
  channel smallint NOT NULL,
  carrier_id text NOT NULL,
  raw bytea NOT NULL,
  tries smallint NOT NULL,
  due timestamptz NOT NULL
);
CREATE INDEX parked_reports_due ON parked_reports (due);

CREATE TABLE webhook_parked (
  endpoint int,
  event_id bigint,
  message_id bigint NOT NULL,
  sequence smallint NOT NULL,
  tries smallint NOT NULL,
  due timestamptz NOT NULL,
  PRIMARY KEY (endpoint, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
-- Dead letters stay with due 'infinity' and stand in no index of what is to come.
CREATE INDEX webhook_parked_due ON webhook_parked (((event_id >> 12) & 1023), endpoint, due)
  WHERE due < 'infinity';
CREATE INDEX webhook_parked_oldest ON webhook_parked (((event_id >> 12) & 1023), event_id)
  WHERE due < 'infinity';

CREATE TABLE quarantine (
  message_id bigint,
  at timestamptz NOT NULL DEFAULT now(),
  step text NOT NULL,
  error text NOT NULL,
  row bytea
);

CREATE TABLE data_keys (
  shard smallint,
  day date,
  wrapped bytea NOT NULL,
  PRIMARY KEY (shard, day)
);

-- The lock comes first and the comparison reads a fresh snapshot: a takeover holds the lock
-- exclusively while it raises the epoch, so an old owner's statement either ended before it or
-- sees the new epoch. Volatile, or the comparison could use the statement's older snapshot.
CREATE FUNCTION fence() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  mine int := current_setting('smsgw.process', true)::int;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(42, mine);
  IF NOT EXISTS (
    SELECT FROM processes
    WHERE process = mine AND epoch = current_setting('smsgw.epoch', true)::int
  ) THEN
    RAISE EXCEPTION 'this process no longer owns its messages' USING ERRCODE = 'SG001';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER fence BEFORE INSERT ON messages
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
CREATE TRIGGER fence BEFORE INSERT ON events
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON claims
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON parked
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON webhook_parked
  FOR EACH STATEMENT EXECUTE FUNCTION fence();

-- Configuration: whole objects with references by name; secrets sealed.
CREATE TABLE objects (
  kind text,
  id int,
  name text NOT NULL,
  version int NOT NULL,
  spec jsonb NOT NULL,
  secrets bytea,
  deleted_at timestamptz,
  PRIMARY KEY (kind, id)
);
CREATE UNIQUE INDEX objects_name ON objects (kind, name) WHERE deleted_at IS NULL;

CREATE TABLE object_history (
  kind text,
  id int,
  version int,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL,
  spec jsonb NOT NULL,
  secrets bytea,
  is_deleted boolean NOT NULL,
  PRIMARY KEY (kind, id, version)
);

CREATE TABLE config_version (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  version int NOT NULL
);
INSERT INTO config_version (version) VALUES (0);
