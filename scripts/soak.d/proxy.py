"""A TCP proxy that breaks, on loopback: it cuts, freezes, delays and throttles what passes, and swallows
answers."""

import asyncio
import contextlib
import random
import threading

PASS, CUT, FREEZE, DELAY, THROTTLE, SWALLOW = "pass", "cut", "freeze", "delay", "throttle", "swallow"
FAULTS = [CUT, FREEZE, DELAY, THROTTLE, SWALLOW]

BLOCK = 64 * 1024
# Of answers, while they are swallowed.
SWALLOWED = 0.3
DELAYED = 0.2
BYTES_A_SECOND = 100 * 1024
POLL = 0.02

_loop = asyncio.new_event_loop()
threading.Thread(target=_loop.run_forever, daemon=True).start()


class Proxy:
    def __init__(self, name, target):
        self.name, self.target, self.mode = name, target, PASS
        self.open = set()
        self.server = asyncio.run_coroutine_threadsafe(self._listen(), _loop).result()
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _listen(self):
        return await asyncio.start_server(self._carry, "127.0.0.1", 0)

    def set(self, mode):
        self.mode = mode
        if mode == CUT:
            _loop.call_soon_threadsafe(self._cut)

    def _cut(self):
        for writer in list(self.open):
            writer.transport.abort()

    async def _carry(self, reader, writer):
        host, port = self.target.split(":")
        if self.mode == CUT:
            writer.transport.abort()
            return
        try:
            there_reader, there = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, there}
        self.open |= ends
        pumps = [
            asyncio.ensure_future(self._pump(reader, there, is_answer=False)),
            asyncio.ensure_future(self._pump(there_reader, writer, is_answer=True)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self.open -= ends
        for end in ends:
            end.transport.abort() if self.mode == CUT else end.close()

    async def _pump(self, reader, writer, is_answer):
        with contextlib.suppress(OSError):
            while data := await reader.read(BLOCK):
                while self.mode == FREEZE:
                    await asyncio.sleep(POLL)
                if self.mode == CUT:
                    return
                if self.mode == SWALLOW and is_answer and random.random() < SWALLOWED:
                    return
                if self.mode == DELAY and is_answer:
                    await asyncio.sleep(DELAYED)
                if self.mode == THROTTLE:
                    await asyncio.sleep(len(data) / BYTES_A_SECOND)
                writer.write(data)
                await writer.drain()
