-- Reading: lists, the pull of events, usage. Reasons: docs/decisions/0020.

-- No event of this process below the floor is still to be committed; 0 = it has said nothing yet.
-- Code of before leaves it at 0, so that nothing is served from the pull while such code runs.
ALTER TABLE processes ADD COLUMN event_floor bigint NOT NULL DEFAULT 0;

-- The pull reads a tenant's events in the order of their ids. What no tenant is told of (paths 0, 2
-- and 6 of receipts.state.Path) stands in no index. ON ONLY: the partitions that are there get
-- theirs beside the traffic (store/indexes.py), new ones when they are made.
CREATE INDEX events_pull ON ONLY events (tenant, event_id)
  WHERE path <> 0 AND path <> 2 AND path <> 6;

-- What each flush moved between the cells of usage_days, added up every few seconds. day: since
-- 1970-01-01 in UTC+8; class, carrier and status as in messages and events; channel 0 = none.
CREATE TABLE usage_deltas (
  tenant int NOT NULL,
  day int NOT NULL,
  class smallint NOT NULL,
  carrier smallint NOT NULL,
  channel smallint NOT NULL,
  status smallint NOT NULL,
  messages int NOT NULL,
  segments int NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE usage_days (
  tenant int,
  day int,
  class smallint,
  carrier smallint,
  channel smallint,
  status smallint,
  messages bigint NOT NULL,
  segments bigint NOT NULL,
  PRIMARY KEY (tenant, day, class, carrier, channel, status)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What is stored already, counted once: the newest row that moved a message gives its status, its
-- newest attempt (else its first row with one) the channel.
INSERT INTO usage_days
SELECT m.tenant, floor((extract(epoch FROM m.created_at) + 28800) / 86400)::int, m.class,
  m.flags & 7, coalesce(tried.channel, seen.channel, 0), coalesce(newest.state, 0),
  count(*), sum(m.segments)
FROM messages m
LEFT JOIN (
  SELECT DISTINCT ON (message_id) message_id,
    (ARRAY[NULL, 5, 2, 11, 4, 5, 2, 11, 11, 6, 7, 8, 9, 10, 12, 13, 1, 6, 9])[path + 1] AS state
  FROM events WHERE path <> 0 ORDER BY message_id, sequence DESC
) newest ON newest.message_id = m.id
LEFT JOIN (
  SELECT DISTINCT ON (message_id) message_id, channel FROM events
  WHERE path IN (1, 2, 3, 4) AND channel <> 0 ORDER BY message_id, sequence DESC
) tried ON tried.message_id = m.id
LEFT JOIN (
  SELECT DISTINCT ON (message_id) message_id, channel FROM events
  WHERE path <> 0 AND channel <> 0 ORDER BY message_id, sequence
) seen ON seen.message_id = m.id
GROUP BY 1, 2, 3, 4, 5, 6;
