-- What one process asks of another (DESIGN decision 7), and which batches are halted.

-- One row per command and process. It stands until it is carried out, also by the process's next
-- life or whoever takes it over. kind as in store.commands.Kind; first_id … last_id: the messages
-- it is about; payload: what else the kind needs. answer: what the asking process waits for.
CREATE TABLE commands (
  id bigint PRIMARY KEY,
  requester smallint NOT NULL,
  process smallint NOT NULL,
  kind smallint NOT NULL,
  tenant int NOT NULL,
  first_id bigint NOT NULL,
  last_id bigint NOT NULL,
  payload jsonb,
  at timestamptz NOT NULL DEFAULT now(),
  answer jsonb,
  answered_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX commands_open ON commands (process, id) WHERE answered_at IS NULL;
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON commands
  FOR EACH STATEMENT EXECUTE FUNCTION fence();

-- batches.state: 0 = runs, 1 = paused, 2 = canceled, 3 = canceled and nothing of it waits. Every
-- process knows those that are paused or canceled.
CREATE INDEX batches_halted ON batches (first_id, last_id, state) WHERE state IN (1, 2);
