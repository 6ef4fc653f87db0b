-- Messages that nothing more is heard of: found by walking over the ids once, not by asking each.
-- Reasons: docs/decisions/0037.

-- How far each walk has come. kind 0: the receipt deadline, 1: receipts that are overdue. Everything
-- up to `position` was looked at. One process walks: the one that holds the row, until `until`.
CREATE TABLE walks (
  kind smallint PRIMARY KEY,
  position bigint NOT NULL,
  process smallint NOT NULL,
  until timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO walks VALUES (0, 0, 0, '-infinity'), (1, 0, 0, '-infinity');
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON walks
  FOR EACH STATEMENT EXECUTE FUNCTION fence();

-- What had no end when the deadline's walk came by, and could not be ended then: it was sent later
-- than it was accepted, or waits yet. due: when its deadline may be over.
CREATE TABLE deadlines (
  message_id bigint PRIMARY KEY,
  due timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX deadlines_due ON deadlines (due);
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON deadlines
  FOR EACH STATEMENT EXECUTE FUNCTION fence();

-- Messages whose receipt is overdue, at most some thousands of a channel; channel 0: not sent yet.
-- since: when it was submitted. is_asked: its vendor was asked, due is when to look what came of it.
CREATE TABLE overdue (
  message_id bigint PRIMARY KEY,
  channel int NOT NULL,
  since timestamptz NOT NULL,
  due timestamptz NOT NULL,
  tries smallint NOT NULL DEFAULT 0,
  is_asked boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX overdue_due ON overdue (channel, due);
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON overdue
  FOR EACH STATEMENT EXECUTE FUNCTION fence();
