"""multiprocessing in all three ways of starting, and executors over it."""
import concurrent.futures as futures, multiprocessing as mp, os, signal, sys, time
from multiprocessing import shared_memory


def square(x):
    return x * x


def worker(queue, lock, number, counter):
    for _ in range(100):
        with lock:
            counter.value += 1
    queue.put((number, "x" * 100000))


def echo(pipe):
    while (message := pipe.recv()) is not None:
        pipe.send(message[::-1])


def hit(barrier, event, results, at):
    barrier.wait(60)
    event.wait(60)
    results[at] = at + 1


def shared(name):
    memory = shared_memory.SharedMemory(name=name)
    memory.buf[1] = memory.buf[0] + 1
    memory.close()


def consumer(condition, items):
    with condition:
        while not items.value:
            condition.wait(60)
        items.value -= 1


def forever():
    signal.pause()


def fails():
    raise SystemExit(41)


def way(method):
    ctx = mp.get_context(method)
    with ctx.Pool(3) as pool:
        print(method, pool.map(square, range(30), 4), sum(pool.imap_unordered(square, range(200), 5)))
        later = pool.apply_async(square, (12,))
        print(later.get(60), pool.starmap(pow, [(2, 3), (3, 2)]))
        try:
            pool.apply(divmod, (1, 0))
        except ZeroDivisionError as error:
            print("from a worker:", error)
    queue, lock, counter = ctx.Queue(), ctx.Lock(), ctx.Value("i", 0, lock=False)
    workers = [ctx.Process(target=worker, args=(queue, lock, n, counter)) for n in range(4)]
    [process.start() for process in workers]
    print(sorted((number, len(text)) for number, text in (queue.get(timeout=60) for _ in workers)))
    [process.join(60) for process in workers]
    print([process.exitcode for process in workers], counter.value)
    here, there = ctx.Pipe()
    talker = ctx.Process(target=echo, args=(there,))
    talker.start()
    for message in (b"abc", b"x" * 1000000, "text"):
        here.send(message)
        print(here.poll(60), here.recv() == message[::-1])
    here.send(None)
    talker.join(60)
    barrier, event, results = ctx.Barrier(4), ctx.Event(), ctx.Array("i", 3)
    hitters = [ctx.Process(target=hit, args=(barrier, event, results, at)) for at in range(3)]
    [process.start() for process in hitters]
    barrier.wait(60)
    print(list(results))
    event.set()
    [process.join(60) for process in hitters]
    print(list(results))
    condition, items = ctx.Condition(), ctx.Value("i", 0, lock=False)
    takers = [ctx.Process(target=consumer, args=(condition, items)) for _ in range(2)]
    [process.start() for process in takers]
    with condition:
        items.value = 2
        condition.notify_all()
    [process.join(60) for process in takers]
    print(items.value, [process.exitcode for process in takers])
    memory = shared_memory.SharedMemory(create=True, size=5000)
    memory.buf[0] = 41
    child = ctx.Process(target=shared, args=(memory.name,))
    child.start()
    child.join(60)
    print(memory.buf[1], child.exitcode)
    memory.close()
    memory.unlink()
    with ctx.Manager() as manager:
        table, names = manager.dict(), manager.list(range(3))
        table["a"] = names
        names.append(7)
        print(list(table["a"]), list(manager.Queue().get_nowait.__name__ for _ in range(1)))
    victim, quitter = ctx.Process(target=forever), ctx.Process(target=fails)
    victim.start(), quitter.start()
    victim.kill()
    victim.join(60), quitter.join(60)
    print(victim.exitcode, quitter.exitcode, len(mp.active_children()))
    with futures.ProcessPoolExecutor(3, mp_context=ctx) as executor:
        print(list(executor.map(square, range(10))))


def broken():
    """A worker that is killed breaks its executor, and nothing hangs."""
    with futures.ProcessPoolExecutor(2) as executor:
        try:
            executor.submit(os.kill, 0, 0).result(60)
            executor.submit(os._exit, 3).result(60)
        except futures.process.BrokenProcessPool:
            print("broken pool")


if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        way(method)
        sys.stdout.flush()
    broken()
    print(sorted(name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "sem.mp-"))))
