-- Who has left which channel, so that its tenants are told once. Reasons: docs/decisions/0033.

-- A process left a channel, as a whole (carrier -1) or for one carrier (its place in sms.model), and
-- has not come back. The first row of a channel and carrier is told as `channel.degraded`, the end of
-- the last one as `channel.recovered`: rows of `events` (paths 66 and 67) whose message_id is their
-- own event_id. since, cause, told: of the first one; told: the highest event id of those that said
-- so. seen: repeated by the process; a row that nobody repeats any more is a dead one's.
CREATE TABLE channels_left (
  channel int,
  carrier smallint,
  process smallint,
  cause text NOT NULL,
  since timestamptz NOT NULL,
  told bigint NOT NULL,
  seen timestamptz NOT NULL,
  PRIMARY KEY (channel, carrier, process)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON channels_left
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
