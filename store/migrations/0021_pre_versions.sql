-- Which code runs, so that nothing is taken away that it needs. Reasons: docs/decisions/0042.

-- The newest migration that a process's code knows, said for one epoch. A process without a row of
-- its epoch runs code of before this.
CREATE TABLE process_versions (
  process smallint PRIMARY KEY,
  epoch int NOT NULL,
  knows smallint NOT NULL
) WITH (fillfactor = 50);

-- Code that does not know the migration `needs` must not work on this database: a contraction took
-- away what it would use. Raised before that looks who lives.
CREATE TABLE schema_floor (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  needs smallint NOT NULL
);
INSERT INTO schema_floor (needs) VALUES (0);
