#!/bin/sh
# A container's first process: with GRAFT_REPOSITORY set, make sure that its checkout is a clone of it, then run the command.
set -eu
if [ -n "${GRAFT_REPOSITORY:-}" ] && [ ! -e "$GRAFT_CHECKOUT/.git" ]; then
    git clone --quiet -- "$GRAFT_REPOSITORY" "$GRAFT_CHECKOUT"
    # A remote of this machine's own (address, not secrets: those are in the environment).
    if [ -n "${GRAFT_REMOTE_URL:-}" ]; then
        (cd "$GRAFT_CHECKOUT" && dvc remote add --local --force "${GRAFT_REMOTE:-store}" "$GRAFT_REMOTE_URL")
        if [ -n "${GRAFT_REMOTE_ENDPOINT:-}" ]; then
            (cd "$GRAFT_CHECKOUT" && dvc remote modify --local "${GRAFT_REMOTE:-store}" endpointurl "$GRAFT_REMOTE_ENDPOINT")
        fi
    fi
fi
exec "$@"
