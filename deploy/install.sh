#!/bin/sh
# What the image consists of; the Dockerfile runs these steps, and a test runs them without an engine.
#
#   sh deploy/install.sh packages PREFIX     an environment at PREFIX with what requirements.lock names
#   sh deploy/install.sh gateway PREFIX      and the gateway in it, without the tools that installed it
#
# Run from the project's folder. PYTHON chooses the interpreter.
set -eu
step=$1
prefix=$2
export PIP_NO_CACHE_DIR=${PIP_NO_CACHE_DIR-1} PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

case $step in
packages)
    "${PYTHON:-python}" -m venv "$prefix"
    "$prefix/bin/python" -m pip install --quiet --require-hashes --no-deps --only-binary :all: \
        -r requirements.lock
    ;;
gateway)
    "$prefix/bin/python" -m pip install --quiet --no-deps --no-build-isolation .
    "$prefix/bin/python" -m pip uninstall --quiet --yes pip setuptools
    ;;
*)
    echo "install.sh: no such step: $step (packages, gateway)" >&2
    exit 2
    ;;
esac
