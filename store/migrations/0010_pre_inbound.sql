-- Texts from phones (MO). Reasons: docs/decisions/0026.

-- A text as it was kept: whole, or what had come of it when the wait ended (missing > 0). Its
-- events stand in `events` under its id: sequence 1 = received (path 64), 2 = opted out (path 65).
-- tenant 0 = nobody's. number and body are sealed; recipient is the number it was sent to, ours.
-- suppressed: bits by class number that it, an opt-out, newly suppressed; parent: the message it
-- probably answers.
CREATE TABLE inbound (
  id bigint,
  tenant int NOT NULL,
  number bytea NOT NULL,
  body bytea NOT NULL,
  recipient text NOT NULL,
  channel int NOT NULL,
  segments smallint NOT NULL,
  missing smallint NOT NULL,
  parent bigint,
  suppressed smallint NOT NULL,
  received_at timestamptz NOT NULL,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX ON inbound (tenant, id);
CREATE TRIGGER fence BEFORE INSERT ON inbound
  FOR EACH STATEMENT EXECUTE FUNCTION fence();

-- Why a number stands on the suppression list (sms.model.Held): 0 = asked for, 1 = it does not exist,
-- 2 = a carrier blocks it.
ALTER TABLE suppressions ADD COLUMN held smallint NOT NULL DEFAULT 0;

-- What a delivery is known by, so that one which a carrier sends again is kept once: a keyed hash
-- of 16 bytes over channel, numbers, text and, where there is one, the carrier's own id. id: the
-- text or segment that was kept.
CREATE TABLE inbound_keys (
  key bytea PRIMARY KEY,
  id bigint NOT NULL,
  expires_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX inbound_keys_expires ON inbound_keys (expires_at);
CREATE TRIGGER fence BEFORE INSERT OR UPDATE ON inbound_keys
  FOR EACH STATEMENT EXECUTE FUNCTION fence();

-- Long texts of which segments are missing. key: keyed hash over channel, numbers and reference;
-- state, sealed: the numbers and the segments that came. Whoever receives the last one, or finds it
-- due, locks the row, writes the text and deletes it, in one commit.
CREATE TABLE inbound_joins (
  key bytea PRIMARY KEY,
  channel int NOT NULL,
  state bytea NOT NULL,
  due timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX inbound_joins_due ON inbound_joins (due);
