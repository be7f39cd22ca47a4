"""A stub of the Telegram Bot API: every method succeeds at once. `python stub_api.py PORT`

It speaks just enough HTTP/1.1 (keep-alive, Content-Length) for the frameworks measured here, so
that it costs little beside them: one `asyncio.Protocol`, no parser. `getMe` returns the bot, every
other method a message in the chat that the body names.
"""

import asyncio
import itertools
import re
import sys
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHAT = re.compile(rb"chat_id\W+(\d+)")  # JSON and urlencoded forms alike
BOT = b'{"id":1000001,"is_bot":true,"first_name":"Bench","username":"bench_bot"}'
MESSAGE = (
    b'{"message_id":%d,"from":' + BOT + b',"chat":{"id":%s,"type":"private","first_name":"Ann"},'
    b'"date":1781234567,"text":"1"}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    b'{"ok":true,"result":%s}'
)
message_ids = itertools.count(1)


class BotApi(asyncio.Protocol):
    """One connection; requests are answered in the order in which they came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end]
            length = LENGTH.search(head)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self.received) < stop:
                return
            self.answer(head, self.received[end + 4 : stop])
            self.received = self.received[stop:]

    def answer(self, head: bytes, body: bytes) -> None:
        if b"/getMe " in head.partition(b"\r\n")[0]:
            result = BOT
        else:
            chat = CHAT.search(body)
            result = MESSAGE % (next(message_ids), chat[1] if chat else b"1")
        self.transport.write(ANSWER % (len(result) + len(b'{"ok":true,"result":}'), result))


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(BotApi, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
