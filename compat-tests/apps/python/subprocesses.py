"""subprocess, popen and fork: what a program prints about its children must be the same everywhere."""
import os, signal, subprocess, sys, threading, time
from subprocess import PIPE, DEVNULL, STDOUT


def pipes():
    done = subprocess.run("echo out; echo err >&2; exit 3", shell=True, capture_output=True, text=True)
    print("shell", done.returncode, done.stdout, done.stderr)
    data = bytes(range(256)) * 4000
    child = subprocess.Popen(["cat"], stdin=PIPE, stdout=PIPE)
    print("through cat", child.communicate(data)[0] == data, child.returncode)
    first = subprocess.Popen(["seq", "20000"], stdout=PIPE)
    second = subprocess.Popen(["grep", "7"], stdin=first.stdout, stdout=PIPE)
    third = subprocess.Popen(["wc", "-l"], stdin=second.stdout, stdout=PIPE, text=True)
    first.stdout.close(), second.stdout.close()
    print("pipeline", third.communicate()[0].strip(), first.wait(), second.wait())
    joined = subprocess.run(["sh", "-c", "echo a; echo b >&2"], stdout=PIPE, stderr=STDOUT)
    print("joined", joined.stdout)
    head = subprocess.Popen("yes | head -n 3", shell=True, stdout=PIPE)
    print("yes", head.communicate()[0])


def ends():
    for words in (["true"], ["false"], ["sh", "-c", "kill -9 $$"], ["sh", "-c", "exit 255"]):
        print(words, subprocess.call(words))
    try:
        subprocess.run(["/nonexistent/program"])
    except FileNotFoundError as error:
        print("missing", error.errno, error.filename)
    try:
        subprocess.run(["/etc/passwd"])
    except PermissionError as error:
        print("not executable", error.errno)
    try:
        subprocess.run(["sleep", "30"], timeout=0.2)
    except subprocess.TimeoutExpired as error:
        print("timeout", error.cmd)
    try:
        subprocess.run(["sh", "-c", "echo partial; exec sleep 30"], timeout=0.5, capture_output=True)
    except subprocess.TimeoutExpired as error:
        print("timeout", error.output)
    child = subprocess.Popen(["sleep", "30"])
    print("poll", child.poll())
    child.send_signal(signal.SIGSTOP)
    print("stopped", os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1]))
    child.send_signal(signal.SIGCONT)
    print("continued", os.WIFCONTINUED(os.waitpid(child.pid, os.WCONTINUED)[1]))
    child.terminate()
    print("terminated", child.wait())
    many = [subprocess.Popen(["sh", "-c", f"exit {n}"]) for n in range(30)]
    print("many", [child.wait() for child in many])


SHOW = "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.getcwd(), os.environ.get('X'))"


def ways():
    python = [sys.executable, "-S", "-c"]
    print(subprocess.run(python + [SHOW], start_new_session=True, cwd="/", env={**os.environ, "X": "1"}, stdout=PIPE).stdout)
    print(subprocess.run(python + [SHOW], process_group=0, cwd="/usr", stdout=PIPE).stdout)
    mask = "import os; m = os.umask(0); print(oct(m), os.nice(0))"
    print(subprocess.run(python + [mask], umask=0o37, preexec_fn=lambda: os.nice(3), stdout=PIPE).stdout)
    read, write = os.pipe()
    print(subprocess.run(["sh", "-c", f"echo passed >&{write}"], pass_fds=[write]).returncode, os.read(read, 100))
    print(subprocess.run(["sh", "-c", f"echo lost >&{write}"], stderr=DEVNULL).returncode)
    print(subprocess.run(["sh", "-c", f"echo kept >&{write}"], close_fds=False, stderr=DEVNULL).returncode)
    os.set_inheritable(write, True)
    print(subprocess.run(["sh", "-c", f"echo kept >&{write}"], close_fds=False).returncode, os.read(read, 100))
    print(os.popen("cat; echo popen").read(), os.system("exit 9") >> 8)
    try:
        subprocess.run(["true"], preexec_fn=lambda: 1 / 0)
    except subprocess.SubprocessError as error:
        print("preexec", error)


def spawned():
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read), (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    pid = os.posix_spawnp("sh", ["sh", "-c", "cat; echo spawned; kill -TERM $$; echo masked"], os.environ,
                          file_actions=actions, setpgroup=0, setsigmask=[signal.SIGTERM])
    os.close(write)
    print(os.waitpid(pid, 0)[1], os.read(read, 100))
    os.close(read)


def threads():
    """Children of several threads at once; each waits for its own."""
    outcome = []

    def work(n):
        for round in range(5):
            done = subprocess.run(["sh", "-c", f"echo {n} {round}; exit {n}"], stdout=PIPE)
            outcome.append((n, round, done.returncode, done.stdout))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    print(sorted(outcome))


def watched():
    import select
    child = os.fork()
    if child == 0:
        time.sleep(0.1)
        os._exit(5)
    fd = os.pidfd_open(child)
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN)
    print("pidfd", len(epoll.poll(30)), os.waitid(os.P_PIDFD, fd, os.WEXITED).si_status)
    try:
        os.waitid(os.P_PIDFD, fd, os.WEXITED)
    except ChildProcessError:
        print("no child")
    print("rusage", os.wait3(os.WNOHANG) if False else os.times()[2] >= 0)


for part in (pipes, ends, ways, spawned, threads, watched):
    part()
    sys.stdout.flush()
