-- Webhooks a tenant can look at: what was tried, how its endpoints are, what is sent again.

-- One row per HTTP request, written when its answer is known; 30 days. id: of that moment, by the
-- process that made the request. event_id: the event of a request with one; event_ids: those of a
-- batch. status: of HTTP, NULL when none was read. answer: the beginning of what came back, sealed,
-- for it may repeat a text. Rows are a log: no process owns them, so there is no fence.
CREATE TABLE webhook_attempts (
  id bigint,
  endpoint int,
  event_id bigint,
  event_ids bigint[],
  at timestamptz NOT NULL,
  ms int NOT NULL,
  tries smallint NOT NULL,
  status smallint,
  code text NOT NULL,
  next_at timestamptz,
  answer bytea,
  PRIMARY KEY (endpoint, id)
) PARTITION BY RANGE (id);
CREATE INDEX ON webhook_attempts (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX ON webhook_attempts USING gin (event_ids) WHERE event_ids IS NOT NULL;

-- How an endpoint is, over all processes: it fails while failing_since is newer than delivered_at.
CREATE TABLE webhook_health (
  endpoint int PRIMARY KEY,
  delivered_at timestamptz,
  failing_since timestamptz,
  warned_at timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Replays that are not done: the events of tenant above position up to until go to webhook_parked
-- again, page by page, by whichever process comes first. at: of its last page.
CREATE TABLE webhook_replays (
  id bigint PRIMARY KEY,
  endpoint int NOT NULL,
  tenant int NOT NULL,
  is_failed boolean NOT NULL,
  position bigint NOT NULL,
  until bigint NOT NULL,
  at timestamptz NOT NULL
);
CREATE INDEX webhook_replays_at ON webhook_replays (at);

-- Dead letters of an endpoint, for their replay and their end.
CREATE INDEX webhook_parked_dead ON webhook_parked (endpoint, event_id) WHERE due = 'infinity';
