-- Parked reports are taken by one process at a time, and at their end it is known what they were.

-- taken_until: whoever looks one up has it until then; a dead one's are free after that. Changing it
-- touches no index, and the room on the pages keeps such changes there. is_orphan: it might have been
-- about a lost answer of ours, and a doubt remained. Older processes leave both as they are.
ALTER TABLE parked_reports
  ADD COLUMN taken_until timestamptz NOT NULL DEFAULT '-infinity',
  ADD COLUMN is_orphan boolean NOT NULL DEFAULT false,
  SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
