#!/usr/bin/env bash
# Fetches a program out of Debian's packages, without installing anything, unless it is there, and prints where it is.
#
#   scripts/debian_tool.sh NAME           needs apt-get (Debian, Ubuntu)
#   scripts/debian_tool.sh NAME --find    fetches nothing; exit 1 with one line when it is missing
#
#   promtool   of Prometheus, 20 MB: what the chart's rules are tested with
#   redis      a server that speaks Redis' protocol, 2 MB: what routers' shared budgets are tested with
#   nginx      1 MB: whose verdicts on odd requests are compared with the router's, and what its times are compared with
#
# One in PATH is taken first.
set -euo pipefail
name=${1:-}
home=
case $name in
    promtool) in_path=promtool packages=prometheus program=usr/bin/promtool or=Prometheus home=prometheus ;;
    redis)
        in_path='valkey-server redis-server' program=redis-server or='Redis or Valkey'
        packages='redis-tools libhiredis0.14 liblua5.1-0 libjemalloc2 liblzf1 lua-cjson lua-bitop libatomic1'
        ;;
    nginx) in_path=nginx packages=nginx program=usr/sbin/nginx or=nginx ;;
    *) echo "debian_tool: unknown program '$name'; there are promtool, redis and nginx" >&2; exit 2 ;;
esac
for command in $in_path; do
    if command -v "$command"; then exit 0; fi
done
folder=${XDG_CACHE_HOME:-$HOME/.cache}/marlin/${home:-$name}
if [ -x "$folder/$program" ]; then
    echo "$folder/$program"
    exit 0
fi
if [ "${2:-}" = --find ] || ! command -v apt-get >/dev/null; then
    echo "$name: not there; run: make $name (Debian), or install $or" >&2
    exit 1
fi
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cd "$draft"
# shellcheck disable=SC2086 # names of packages
apt-get download -q $packages >&2
for package in *.deb; do dpkg -x "$package" tree; done
if [ "$name" = redis ]; then
    # redis-check-rdb and redis-server are one program, which goes by its name, and its libraries are beside it.
    cat > tree/redis-server <<'RUN'
#!/usr/bin/env bash
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$(find "$here" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:) exec -a redis-server "$here/usr/bin/redis-check-rdb" "$@"
RUN
    chmod +x tree/redis-server
fi
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv tree "$folder"
echo "$folder/$program"
