# Hosts on one machine, for tests/cluster/lab.py: each has its own processes, network, home, /tmp, /run and /dev/shm.
# Runs as the first process of new pid, network and mount namespaces; they are the laptop's, every other host has its own.
#
#   lab.sh FOLDER HOST...      FOLDER is /mnt/shared on every host; the n-th HOST has the address 10.77.0.(n + 1)
set -eu

private() { # overlaid, not emptied: /tmp may hold the checkout and the interpreter
  mkdir -p "/mnt/$1/up" "/mnt/$1/work"
  mount -t overlay overlay -o "lowerdir=/tmp,upperdir=/mnt/$1/up,workdir=/mnt/$1/work" /tmp
  mount -t tmpfs tmpfs /dev/shm
  mount -t tmpfs tmpfs /run
  mkdir /run/sshd
  mount --bind "/mnt/shared/homes/$1" /mnt/home
  mount --bind /mnt/shared/passwd /etc/passwd
}

if [ "${LAB_HOST:-}" ]; then
  private "$LAB_HOST"
  exec /usr/sbin/sshd -D -e -f /mnt/shared/sshd_config -h /mnt/shared/host_key 2>"/mnt/shared/sshd-$LAB_HOST.log"
fi

mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/shared /mnt/home
mount --bind "$1" /mnt/shared
shift
ip link set lo up
ip link add switch type bridge
ip link set switch up
ip addr add 10.77.0.1/24 dev switch
address=1
for name in "$@"; do
  address=$((address + 1))
  LAB_HOST=$name unshare --pid --fork --kill-child --mount-proc --net --mount bash "$0" &
  while [ "$(readlink "/proc/$!/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
  ip link add "to-$name" type veth peer name eth0 netns "$!"
  ip link set "to-$name" master switch up
  for setting in "link set lo up" "addr add 10.77.0.$address/24 dev eth0" "link set eth0 up" "route add default via 10.77.0.1"; do
    nsenter --net="/proc/$!/ns/net" ip $setting # the way out leads nowhere, but Ray asks for it to learn its own address
  done
  echo "$!" >"/mnt/shared/pid-$name" # of `unshare`, whose only child is the host's first process
done
private laptop
touch /mnt/shared/up
while :; do sleep 1000 & wait; done
