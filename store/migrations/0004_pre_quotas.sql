-- What each tenant took of its quota: period 0 = the day, 1 = the month that begins on first_day
-- (UTC+8). granted, wanted, minimum and maximum are those of the last statement (see store/quotas.py).
-- Rows are changed in place: room for the new version on the same page, none in an index.
CREATE TABLE quotas (
  tenant int,
  period smallint,
  first_day date,
  taken bigint NOT NULL CHECK (taken >= 0),
  granted bigint NOT NULL,
  wanted bigint NOT NULL,
  minimum bigint NOT NULL,
  maximum bigint NOT NULL,
  PRIMARY KEY (tenant, period, first_day)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
