-- Receipts of vendors that wait for their message.

-- reference: our own word for the attempt, where the vendor echoes it ("" = it does not). part, parts:
-- which segment of how many the report is about; 0 = all that its id stands for. Older processes
-- leave all three as they are.
ALTER TABLE parked_reports
  ADD COLUMN reference text NOT NULL DEFAULT '',
  ADD COLUMN part smallint NOT NULL DEFAULT 0,
  ADD COLUMN parts smallint NOT NULL DEFAULT 0;
CREATE INDEX parked_reports_reference ON parked_reports (reference) WHERE reference <> '';
