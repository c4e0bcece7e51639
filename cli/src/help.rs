//! What `attacca COMMAND --help` adds to the list of options: examples, and what to expect.

/// `attacca run --help`.
pub(crate) const RUN: &str = "\
The guest's process is this process: signals sent to it reach the program, its exit status is the program's.
Its address is 10.0.2.15; the host is 10.0.2.2 there, its loopback included. A package's root is as
fetched at every start: what shall stay belongs on a volume.

Exit status: the program's own; 125 Attacca failed, 126 it cannot be run, 127 it is not there,
128+n it was ended by signal n.

Examples:
  attacca run -p 8080:80 debian:nginx                   publish port 80 on all addresses of the host;
                                                        nginx goes into the background, as natively
  attacca run -p 127.0.0.1:5353:53/udp PROGRAM          one address, UDP
  attacca run -v /srv/www:/var/www/html:ro debian:nginx show a folder, read-only
  attacca run --net none --cpus 1 PROGRAM               loopback only, one vCPU
  attacca run --trace=network,!epoll_wait PROGRAM       show some of its calls, as strace does
  attacca run -u nobody -e TZ=Europe/Rome -w /tmp PROGRAM";

/// `attacca check --help`.
pub(crate) const CHECK: &str = "\
Nothing is run. Exit status: 0 if every import binds, else 1. `run` refuses a program with missing
functions unless it is given --lazy.

Examples:
  attacca check /usr/sbin/nginx          every import of program and libraries, and what it is bound to
  attacca check -m debian:memcached      only what is missing
  attacca check --syscalls               every Linux system call and how much of it is there";

/// `attacca exec --help`.
pub(crate) const EXEC: &str = "\
The process is one more of the guest's: it sees its files, network and other processes, and is looked for in
the guest's PATH. Without -i its standard input is empty; without -t its streams are this command's own.
Signals sent to this command go to the process; if this command ends, the process gets SIGHUP. The process
ends with the guest, not the other way round.

Exit status: the process's own, 128+n if signal n ended it; 125 Attacca failed, 126 it cannot be run,
127 it is not there; 137 the guest ended.

Examples:
  attacca exec web nginx -s reload              have nginx read its configuration again
  attacca exec -it web sh                       a shell inside, with a terminal
  echo 'select 1' | attacca exec -i db psql     feed a program
  attacca exec -u nobody -w /tmp -e LC_ALL=C web id";

/// `attacca pull --help`.
pub(crate) const PULL: &str = "\
Packages and what they depend on go to the cache ($ATTACCA_CACHE, else ~/.cache/attacca); nothing is
installed on the host, and no privileges are needed. The path of the root is printed.

Examples:
  attacca pull debian:nginx              fetch now, run later without a network
  ls $(attacca pull debian:nginx)/usr/sbin";

/// `attacca ps --help`.
pub(crate) const PS: &str = "\
Shows your own guests (those of your runtime directory, $XDG_RUNTIME_DIR/attacca).

Examples:
  attacca ps
  attacca ps --modes                     mode, since when, why, frames by mode, switches
  attacca ps --json | jq -r '.[].name'";

/// `attacca kill --help`.
pub(crate) const KILL: &str = "\
The same as kill(1) with the guest's process id: a program that handles the signal decides itself.
When the first process has ended (nginx in the background), the eldest of the others gets it; KILL is for all.

Examples:
  attacca kill web                       ask it to end
  attacca kill -s HUP web                let it read its configuration again
  attacca kill -s KILL web cache         end both at once";

/// `attacca server --help`.
pub(crate) const SERVER: &str = "\
Guests of a network reach each other by address, and by name (NAME or NAME.attacca). A server that dies or
hangs is replaced at once; connections between guests live on. 'start' of a network whose supervisor has
died takes its guests over. Two guests that exchange many frames get a link of their own past the server
('status' names it), unless they have limits, share an address, or --no-shortcuts says that they shall not.

Examples:
  attacca server start --net web                        host sockets as its NIC: no privileges
  attacca run --net web --name db debian:redis-server
  attacca run --net web debian:redis-tools:redis-cli -h db
  attacca server start --net lan --uplink tap:tap0 --ip 10.9.0.10/24 --gateway 10.9.0.1
  attacca server status --net web --json
  attacca server restart --net web";

/// `attacca switch --help`.
pub(crate) const SWITCH: &str = "\
The program and its peers notice nothing: frames under way are taken from the old device first. Back to the
server happens by itself when the direct device goes away. A guest that was switched by hand stays where it is;
of the others 'attacca server start --auto' chooses who is direct.

Examples:
  attacca server start --net lan --uplink tap:tap0 --ip 10.9.0.10/24 --gateway 10.9.0.1 --direct-queues 2
  attacca run --net lan --name web debian:nginx
  attacca switch web direct              a queue of the network's TAP device
  attacca switch web direct --nic xdp:eth1   a NIC of its own: its addresses are announced there
  attacca switch web server
  attacca switch --explain web           which mode, since when and why, frames by mode";

/// `attacca top --help`.
pub(crate) const TOP: &str = "\
Frames and bytes a second, received and sent; frames that the network dropped, TCP segments sent again,
switches between server and direct mode, servers that were replaced, silence of the last switch. Guests of
networks with a name have figures. q ends it.

Examples:
  attacca top
  attacca top --interval 0.5
  attacca top --once                     a table for scripts";

/// `attacca pcap --help`.
pub(crate) const PCAP: &str = "\
A copy of each frame, over rings (to the server, to other guests) and over direct devices (two interfaces in the file), with a
comment where the guest switched or its server was replaced. Until Ctrl-C, a limit, or the guest's end. Segments
are larger than the wire's and checksums unfinished where the device completes them. One capture of a guest at
a time; the guest never waits for it, and the file says how many frames were missed.

Examples:
  attacca pcap web -o web.pcapng
  attacca pcap web -o - --seconds 10 | tcpdump -n -r -
  attacca pcap web -o - | wireshark -k -i -";
