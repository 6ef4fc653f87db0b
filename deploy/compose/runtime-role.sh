#!/bin/sh
# The role that the gateway's workers run as; `smsgw up` gives it its grants. The postgres image runs
# this once, when its volume is empty; with an older volume do it by hand.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$RUNTIME_PASSWORD" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE smsgw_run LOGIN PASSWORD :'password';
SQL
