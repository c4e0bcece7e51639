"""asyncio's subprocesses under each way of watching children, and signals to an event loop."""
import asyncio, os, signal, sys
from asyncio.subprocess import PIPE


async def talk():
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    out, _ = await child.communicate(b"hello" * 50000)
    print(len(out), child.returncode)
    child = await asyncio.create_subprocess_exec("sh", "-c", "while read line; do echo got $line; done", stdin=PIPE, stdout=PIPE)
    for n in range(5):
        child.stdin.write(b"%d\n" % n)
        print(await child.stdout.readline())
    child.stdin.close()
    print(await child.wait())


async def ends():
    child = await asyncio.create_subprocess_exec("sleep", "30")
    child.terminate()
    print(await child.wait())
    children = [await asyncio.create_subprocess_shell(f"exit {n}") for n in range(20)]
    print(await asyncio.gather(*(child.wait() for child in children)))
    child = await asyncio.create_subprocess_exec("sleep", "30")
    try:
        await asyncio.wait_for(child.wait(), 0.1)
    except asyncio.TimeoutError:
        child.kill()
        print("timeout", await child.wait())
    try:
        await asyncio.create_subprocess_exec("/nonexistent")
    except FileNotFoundError:
        print("missing")


async def signals():
    got = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, got.put_nowait, "usr1")
    child = await asyncio.create_subprocess_shell(f"kill -USR1 {os.getpid()}")
    print(await asyncio.wait_for(got.get(), 30), await child.wait())
    loop.remove_signal_handler(signal.SIGUSR1)


async def served():
    async def answer(reader, writer):
        child = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=PIPE, stdout=PIPE)
        out, _ = await child.communicate(await reader.read())
        writer.write(out)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def ask(words):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(words)
        writer.write_eof()
        out = await reader.read()
        writer.close()
        return out

    print(await asyncio.gather(*(ask(b"request %d" % n) for n in range(10))))
    server.close()


async def main():
    for part in (talk, ends, signals, served):
        await part()
        sys.stdout.flush()


for watcher in (asyncio.ThreadedChildWatcher, asyncio.PidfdChildWatcher):
    print(watcher.__name__)
    asyncio.set_child_watcher(watcher())
    asyncio.run(main())
