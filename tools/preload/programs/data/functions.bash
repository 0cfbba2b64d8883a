# shellcheck shell=bash
# What the programs that start servers share.

# Prints a TCP port of 127.0.0.1 that is free now.
free_port() { env -u LD_PRELOAD /usr/bin/python3 "$DATA/free_port.py"; }

# Waits until something listens at port $1 of 127.0.0.1; returns 1 if nothing does within a minute or two.
await_port() {
    local i
    for ((i = 0; i < 1200; i++)); do
        (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.05
    done
    echo "nothing listens at the port" >&2
    return 1
}

# Waits until command "$@" succeeds, silently; returns 1 if it does not within some two minutes.
await() {
    local i
    for ((i = 0; i < 600; i++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "never succeeded: $*" >&2
    return 1
}

# Runs "$@" as nobody, to whom the working folder is given, if the caller is root: some servers refuse to be.
unprivileged() {
    if ((EUID != 0)); then
        "$@"
        return
    fi
    chown -R nobody "$HOME"
    setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"
}
