-- How long things are kept, and who may end them. Reasons: docs/decisions/0045.
-- allow changes: append_only lets one thing more happen, which code of before never does
-- allow hooks: audit_kept stands before a DELETE from audit_events, which code of before never does

-- The last row of the audit log of each UTC day that had one, sealed by a key from the master key:
-- what was before it may go after its time, and what is cut off behind it is missed.
CREATE TABLE audit_anchors (
  day date PRIMARY KEY,
  id bigint NOT NULL,
  hash bytea NOT NULL,
  seal bytea NOT NULL
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_anchors
  FOR EACH STATEMENT EXECUTE FUNCTION append_only();

-- Rows of the audit log end in one way only: after 184 days, up to an anchor that stays.
CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'audit_events'
    AND current_setting('smsgw.audit_trim', true) = 'on' THEN
    RETURN NULL;  -- audit_kept looks at what went
  END IF;
  RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME USING ERRCODE = 'SG002';
END $$;
CREATE FUNCTION audit_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM gone WHERE at > clock_timestamp() - interval '184 days')
    OR EXISTS (SELECT FROM gone HAVING count(*) > 0
      AND NOT EXISTS (SELECT FROM audit_anchors WHERE id = max(gone.id)))
  THEN
    RAISE EXCEPTION 'rows of audit_events are kept 184 days and end at an anchor'
      USING ERRCODE = 'SG002';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER audit_kept AFTER DELETE ON audit_events REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION audit_kept();

-- The rows removed. The newest row stays: the next one takes up its number and hash.
CREATE FUNCTION trim_audit(kept_days int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  removed bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(47, 0);
  PERFORM set_config('smsgw.audit_trim', 'on', true);
  DELETE FROM audit_events WHERE id <= (
    SELECT max(a.id) FROM audit_anchors a
    WHERE a.day < (clock_timestamp() AT TIME ZONE 'UTC')::date - greatest(kept_days, 184)
      AND a.id < (SELECT max(e.id) FROM audit_events e));
  GET DIAGNOSTICS removed = ROW_COUNT;
  PERFORM set_config('smsgw.audit_trim', 'off', true);
  RETURN removed;
END $$;

-- A day's partition, made by who may not make tables; whether it was made now. The range and the
-- order of steps are those of store/partitions.py.
CREATE FUNCTION make_partition(parent text, day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  width CONSTANT bigint := 86400000::bigint << 22;
  low bigint := (day - DATE '2026-01-01') * width;
  high bigint := low + width;
  part text := parent || to_char(day, '_YYYYMMDD');
  key text := CASE parent
    WHEN 'messages' THEN 'id' WHEN 'events' THEN 'message_id'
    WHEN 'inbound' THEN 'id' WHEN 'webhook_attempts' THEN 'id' END;
BEGIN
  IF key IS NULL OR low IS NULL OR low < 0 THEN
    RAISE EXCEPTION 'there is no such partition' USING ERRCODE = 'SG003';
  END IF;
  PERFORM pg_advisory_xact_lock(44, 0);
  IF EXISTS (SELECT FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE c.relname = part AND inhparent = parent::regclass) THEN
    RETURN false;  -- another process was faster
  END IF;
  EXECUTE format(
    'CREATE TABLE %1$I (LIKE %2$I INCLUDING ALL, CONSTRAINT %3$I CHECK (%4$I >= %5$s AND %4$I < %6$s))',
    part, parent, part || '_range', key, low, high);
  EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
    parent, part, low, high);
  EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', part, part || '_range');
  RETURN true;
END $$;

-- A gateway's backend that runs as the owner, ended by who runs as the runtime role: while nodes go
-- over from one role to the other, each must be able to take the other's processes over.
CREATE FUNCTION end_backend(backend int, wait_ms bigint) RETURNS boolean
LANGUAGE sql SECURITY DEFINER AS $$
  SELECT pg_terminate_backend(pid, wait_ms) FROM pg_stat_activity
  WHERE pid = backend AND datname = current_database() AND application_name LIKE 'smsgw/%'
$$;

-- Nothing that a session puts into its search path is looked at, its temporary tables last.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'append_only()', 'audit_kept()', 'trim_audit(int)', 'make_partition(text, date)',
    'end_backend(int, bigint)'] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
  END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION
  trim_audit(int), make_partition(text, date), end_backend(int, bigint) FROM PUBLIC;

-- What ended of each kind of data, when the last round came to its end (from now on: a round that
-- never comes is missed too), and why something is still held.
CREATE TABLE retention (
  what text PRIMARY KEY,
  dropped bigint NOT NULL DEFAULT 0,
  done_at timestamptz NOT NULL DEFAULT now(),
  held text
);
INSERT INTO retention (what) VALUES ('messages'), ('events'), ('inbound'), ('webhook_attempts'),
  ('data_keys'), ('batches'), ('quarantine'), ('suppressions'), ('audit_events');
