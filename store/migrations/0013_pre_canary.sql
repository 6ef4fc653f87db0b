-- Canaries: what their two channels' segments came to, and what the last gate said.

-- slot: when they were submitted, Unix seconds of the begin of a minute or an hour. Each life of a
-- process writes its own totals, so that writing them twice changes nothing. failed in halves;
-- answers: how many took how long, by failover.canary.BOUNDS. Rows go when their canary is over.
CREATE TABLE canary_counts (
  canary int,
  slot bigint,
  channel int,
  process smallint,
  life bigint,
  submits int NOT NULL,
  failed int NOT NULL,
  taken int NOT NULL,
  delivered int NOT NULL,
  undelivered int NOT NULL,
  complaints int NOT NULL,
  answers int[] NOT NULL,
  PRIMARY KEY (canary, slot, channel, process, life)
);

-- version: of the canary that was judged; bad: checks in a row that were, of that version.
-- is_told: whether somebody was told of the end that this gate made.
CREATE TABLE canary_gates (
  canary int PRIMARY KEY,
  checked_at timestamptz NOT NULL,
  version int NOT NULL,
  bad smallint NOT NULL,
  gate jsonb NOT NULL,
  is_told boolean NOT NULL DEFAULT true
);
