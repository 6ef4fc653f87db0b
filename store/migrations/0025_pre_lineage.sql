-- Which database this is, whatever server it lives on: a copy, a dump and what is put back from a
-- backup have the same, a database that begins anew another. Reasons: docs/decisions/0046.
CREATE TABLE lineage (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO lineage DEFAULT VALUES;
