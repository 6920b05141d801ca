#!/usr/bin/env bash
# Fetches Debian's redis-server with its libraries, without installing anything, unless it is there, and prints where a
# command is that runs it.
#
#   scripts/redis.sh           needs apt-get (Debian, Ubuntu); 2 MB
#   scripts/redis.sh --find    fetches nothing; exit 1 with one line when it is missing
#
# A valkey-server or redis-server in PATH is taken first.
set -euo pipefail
if command -v valkey-server || command -v redis-server; then exit 0; fi
folder=${XDG_CACHE_HOME:-$HOME/.cache}/marlin/redis
if [ -x "$folder/redis-server" ]; then
    echo "$folder/redis-server"
    exit 0
fi
if [ "${1:-}" = --find ] || ! command -v apt-get >/dev/null; then
    echo "redis-server: not there; run: make redis (Debian), or install Redis or Valkey" >&2
    exit 1
fi
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cd "$draft"
apt-get download -q redis-tools libhiredis0.14 liblua5.1-0 libjemalloc2 liblzf1 lua-cjson lua-bitop libatomic1 >&2
for package in *.deb; do dpkg -x "$package" tree; done
# redis-check-rdb and redis-server are one program, which goes by its name.
cat > tree/redis-server <<'RUN'
#!/usr/bin/env bash
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$(find "$here" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:) exec -a redis-server "$here/usr/bin/redis-check-rdb" "$@"
RUN
chmod +x tree/redis-server
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv tree "$folder"
echo "$folder/redis-server"
