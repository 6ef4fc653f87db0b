#!/bin/sh
# Random passwords into .env beside this file, readable by its owner only; an .env that is there stays.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo ".env is there already; to make new passwords remove it and the volumes (docker compose down --volumes)"
    exit 0
fi
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
{
    echo "POSTGRES_PASSWORD=$(secret)"
    echo "VALKEY_PASSWORD=$(secret)"
    echo "GRAFANA_PASSWORD=$(secret)"
} >.env
echo "Passwords are in $(pwd)/.env; next: docker compose up --build --wait"
