#!/bin/sh
# A container's first process: with GRAFT_REPOSITORY set, make sure that its checkout is a clone of it, then run the
# command. The checkout is a folder inside the volume: a volume's own top folder belongs to root, which git distrusts,
# and may hold lost+found, over which git does not clone. Whatever this is stopped in, the next start completes.
set -eu
if [ -n "${GRAFT_REPOSITORY:-}" ]; then
    if [ ! -e "$GRAFT_CHECKOUT/.git" ]; then
        # Only an empty folder may be in the way; and a clone has its name only once it is whole.
        [ ! -e "$GRAFT_CHECKOUT" ] || rmdir "$GRAFT_CHECKOUT"
        rm -rf "$GRAFT_CHECKOUT.partial"
        git clone --quiet -- "$GRAFT_REPOSITORY" "$GRAFT_CHECKOUT.partial"
        mv "$GRAFT_CHECKOUT.partial" "$GRAFT_CHECKOUT"
    fi
    # A remote of this machine's own (address, not secrets: those are in the environment), at each start as it is now.
    if [ -n "${GRAFT_REMOTE_URL:-}" ]; then
        (
            cd "$GRAFT_CHECKOUT"
            dvc remote add --quiet --local --force "${GRAFT_REMOTE:-store}" "$GRAFT_REMOTE_URL"
            # What arrives is hashed, also for a `dvc pull` typed in here.
            dvc remote modify --quiet --local "${GRAFT_REMOTE:-store}" verify true
            if [ -n "${GRAFT_REMOTE_ENDPOINT:-}" ]; then
                dvc remote modify --quiet --local "${GRAFT_REMOTE:-store}" endpointurl "$GRAFT_REMOTE_ENDPOINT"
            fi
        )
    fi
fi
exec "$@"
