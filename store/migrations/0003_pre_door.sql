-- The door: when an object was made, keys found by the id inside their text, the audit log.

-- Beside the version, which tells a worker that something changed; read by people only.
ALTER TABLE objects ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
UPDATE objects o SET created_at = h.first_at
FROM (SELECT kind, id, min(at) AS first_at FROM object_history GROUP BY kind, id) h
WHERE h.kind = o.kind AND h.id = o.id;

-- Over removed keys too: an id that was ever given never comes back, so a revoked key stays one.
CREATE UNIQUE INDEX objects_key_id ON objects (((spec ->> 'key_id')::bigint))
  WHERE kind = 'api_key';

-- One row per administrative change, written in the transaction of the change. body is the JSON
-- that `hash` covers: HMAC-SHA256(key from the master key, hash of the row before || body), the
-- first row's predecessor being 32 zero bytes. id counts from 1 without gaps.
CREATE TABLE audit_events (
  id bigint PRIMARY KEY,
  at timestamptz NOT NULL,
  object text NOT NULL,
  body text NOT NULL,
  hash bytea NOT NULL
);
CREATE INDEX audit_events_object ON audit_events (object, id);

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME USING ERRCODE = 'SG002';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
  FOR EACH STATEMENT EXECUTE FUNCTION append_only();
