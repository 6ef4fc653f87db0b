#!/bin/sh
# Random passwords into .env beside this file, readable by its owner only; those that are there stay.
set -eu
cd "$(dirname "$0")"
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
touch .env
for name in POSTGRES_PASSWORD RUNTIME_PASSWORD VALKEY_PASSWORD GRAFANA_PASSWORD; do
    grep -q "^$name=" .env || echo "$name=$(secret)" >>.env
done
# To make new ones: remove .env and the volumes (docker compose down --volumes).
echo "Passwords are in $(pwd)/.env; next: docker compose up --build --wait"
