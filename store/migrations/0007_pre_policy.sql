-- Scheduling and the suppression list.

-- Scheduled messages (why 0) are taken up by class, otp first, and a million of them that are due
-- at the same second must not stand in front of what waits for evidence: each half has its own
-- indexes. parked_why without the scheduled ones: whatever the planner believes, it cannot choose to
-- read and sort all of them for each page. Code of before reads a little more until it is replaced.
CREATE INDEX parked_scheduled ON parked (process, class, due) WHERE why = 0;
CREATE INDEX parked_waiting ON parked (process, due) WHERE why <> 0;
DROP INDEX parked_due;
DROP INDEX parked_why;
CREATE INDEX parked_why ON parked (process, why, message_id) WHERE why <> 0;

-- Who may not be sent to. tenant 0: the platform's, for every tenant. number is sealed by the key of
-- configuration secrets, for an entry outlives every day's data keys; number_index is the blind
-- index of messages. classes: bits by class number. Rows are never deleted, only ended: workers
-- read what has a higher `change` than they know, and an end must reach them too.
CREATE TABLE suppressions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant int NOT NULL,
  number_index bigint NOT NULL,
  number bytea NOT NULL,
  classes smallint NOT NULL CHECK (classes > 0),
  change bigint NOT NULL UNIQUE,
  created_at timestamptz NOT NULL,
  deleted_at timestamptz
);
CREATE UNIQUE INDEX suppressions_number ON suppressions (tenant, number_index)
  WHERE deleted_at IS NULL;
CREATE INDEX suppressions_tenant ON suppressions (tenant, id) WHERE deleted_at IS NULL;

-- Its row is locked by every change, so that numbers commit in their order and none is missed.
CREATE TABLE suppression_changes (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  last bigint NOT NULL
);
INSERT INTO suppression_changes (last) VALUES (0);
