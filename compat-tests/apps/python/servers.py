"""Servers that fork for each connection, pre-forked ones that share a listener, descriptors passed between processes."""
import array, http.server, os, signal, socket, socketserver, sys, threading, urllib.request, xmlrpc.client, xmlrpc.server


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper() + b"%d" % (os.getpid() != server_pid))


def forking():
    global server_pid
    server_pid = os.getpid()
    with socketserver.ForkingTCPServer(("127.0.0.1", 0), Echo) as server:
        loop = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        loop.start()
        answers = []
        for n in range(20):
            with socket.create_connection(server.server_address) as client:
                client.sendall(b"hello %d\n" % n)
                client.shutdown(socket.SHUT_WR)
                answers.append(client.makefile("rb").read())
        print(answers)
        server.shutdown()
        loop.join()
    print("children left", server.active_children)


def preforked():
    listener = socket.create_server(("127.0.0.1", 0), backlog=50)
    workers = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"%d" % os.getpid())
        workers.append(pid)
    seen = set()
    for _ in range(60):
        with socket.create_connection(listener.getsockname()) as client:
            seen.add(int(client.makefile("rb").read()))
    print("of the workers", seen <= set(workers), len(seen) > 0)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers])


def passed():
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _, fds, _, _ = socket.recv_fds(theirs, 10, 4)
        os.write(fds[1], b"from the child: " + os.read(fds[0], 100))
        os._exit(0)
    read, write = os.pipe()
    back, answer = os.pipe()
    socket.send_fds(ours, [b"x"], [read, answer])
    os.close(answer)
    os.write(write, b"given")
    os.waitpid(pid, 0)
    print(os.read(back, 100))


def over_http():
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode() * 10000)

        def log_message(self, *words):
            pass

    class Server(socketserver.ForkingMixIn, http.server.HTTPServer):
        pass

    server = Server(("127.0.0.1", 0), Page)
    pid = os.fork()
    if pid == 0:
        server.serve_forever()
    for path in ("/a", "/bc"):
        print(len(urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}").read()))
    os.kill(pid, signal.SIGKILL)
    print(os.waitpid(pid, 0)[1])


def remote():
    """XML-RPC between a parent and a child."""
    server = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(lambda a, b: a + b, "add")
    pid = os.fork()
    if pid == 0:
        server.handle_request()
        os._exit(0)
    print(xmlrpc.client.ServerProxy("http://127.0.0.1:%d" % server.server_address[1]).add(20, 22))
    os.waitpid(pid, 0)


def daemon():
    """The double fork: the grandchild is nobody's child here, and says so through a pipe."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        while os.getppid() == os.getsid(0):
            pass
        os.write(write, b"%d %d" % (os.getppid() != os.getsid(0), os.getsid(0) != os.getpid()))
        os._exit(0)
    os.close(write)
    print(os.waitpid(pid, 0)[1], os.read(read, 100))


for part in (forking, preforked, passed, over_http, remote, daemon):
    part()
    sys.stdout.flush()
