-- What a request is known by, so that it is stored once. kind 0 = Idempotency-Key (24 hours),
-- 1 = client_ref (7 days). key and digest are keyed hashes of 16 bytes: no word of a request and
-- no number stands here. first_id is the first message that the key brought.
CREATE TABLE intake_keys (
  kind smallint,
  tenant int,
  key bytea,
  digest bytea NOT NULL,
  first_id bigint NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (kind, tenant, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX intake_keys_expires ON intake_keys (expires_at);
-- Not for DELETE: what is over may be removed by anybody.
CREATE TRIGGER fence BEFORE INSERT OR UPDATE ON intake_keys
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
