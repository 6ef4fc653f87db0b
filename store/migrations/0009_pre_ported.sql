-- Numbers that left the network of their prefix.

-- One row for a number for good: number_index is a blind index of its own kind (as of tenant -1),
-- number is sealed by the key of configuration secrets, carrier is its place in sms.model.CARRIERS,
-- NULL once the number goes by its prefix again: workers read what has a higher `change` than they
-- know, and an end must reach them too. The primary key carries what a starting worker reads.
CREATE TABLE ported_numbers (
  number_index bigint NOT NULL,
  number bytea NOT NULL,
  carrier smallint CHECK (carrier BETWEEN 0 AND 7),
  change bigint NOT NULL UNIQUE,
  changed_at timestamptz NOT NULL,
  PRIMARY KEY (number_index) INCLUDE (carrier)
);
CREATE INDEX ported_numbers_listed ON ported_numbers (change) WHERE carrier IS NOT NULL;

-- Its row is locked by every change, so that numbers commit in their order and none is missed.
CREATE TABLE ported_changes (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  last bigint NOT NULL
);
INSERT INTO ported_changes (last) VALUES (0);
