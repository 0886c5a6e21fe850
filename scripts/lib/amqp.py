"""Just enough of AMQP 0-9-1 to publish as Maestro does, and to listen: one connection kept open, confirmed
messages, a queue that is emptied at the end.

The frames are those of the specification, https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf,
and confirm.select is RabbitMQ's extension, https://www.rabbitmq.com/docs/confirms.
"""

import socket
import struct

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
BASIC = 60
PERSISTENT = 2


class Publisher:
    def __init__(self, vhost, host="127.0.0.1", port=5672, user="guest", password="guest"):
        self.socket = socket.create_connection((host, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self.expect(10, 10)  # connection.start
        login = long_string(f"\0{user}\0{password}".encode())
        self.call(0, 10, 11, table(b"") + short_string("PLAIN") + login + short_string("en_US"))
        channels, frame, _heartbeat = struct.unpack(">HIH", self.expect(10, 30))  # connection.tune
        self.frame_size = frame or 1 << 17
        # Without heartbeats: a bench is short, and nobody reads the socket while it waits.
        self.call(0, 10, 31, struct.pack(">HIH", channels, frame, 0))
        self.call(0, 10, 40, short_string(vhost) + short_string("") + b"\0")
        self.expect(10, 41)
        self.call(1, 20, 10, short_string(""))  # channel.open
        self.expect(20, 11)
        self.call(1, 85, 10, b"\0")  # confirm.select
        self.expect(85, 11)

    def publish(self, exchange, key, body):
        """Returns when the broker has the message for good; raises if it refuses it."""
        # Mandatory (bit 0): a message that no queue takes comes back instead of an acknowledgement.
        method = struct.pack(">HHH", BASIC, 40, 0) + short_string(exchange) + short_string(key) + b"\x01"
        # Content type and delivery mode are the properties given: bits 15 and 12.
        header = struct.pack(">HHQH", BASIC, 0, len(body), 1 << 15 | 1 << 12)
        header += short_string("application/json") + bytes([PERSISTENT])
        frames = frame(METHOD, 1, method) + frame(HEADER, 1, header)
        most = self.frame_size - 8
        for start in range(0, len(body), most):
            frames += frame(BODY, 1, body[start : start + most])
        self.socket.sendall(frames)
        self.expect(BASIC, 80)  # basic.ack

    def listen(self, queue, exchange, key):
        """Gathers what an exchange carries in a queue."""
        # Durable (bit 1), so that it outlives the broker.
        self.call(1, 50, 10, b"\0\0" + short_string(queue) + b"\x02" + table(b""))
        self.expect(50, 11)
        self.call(1, 50, 20, b"\0\0" + short_string(queue) + short_string(exchange) + short_string(key) + b"\0" + table(b""))
        self.expect(50, 21)

    def take(self, queue):
        """The messages of a queue, until it is empty."""
        while True:
            # Without acknowledgement (bit 0): who asks is the only one.
            self.call(1, 60, 70, b"\0\0" + short_string(queue) + b"\x01")
            found, _ = self.answer()
            if found == (BASIC, 72):  # basic.get-empty
                return
            kind, header = self.frame()
            size = struct.unpack(">Q", header[4:12])[0]
            body = b""
            while len(body) < size:
                kind, piece = self.frame()
                if kind == BODY:
                    body += piece
            yield body

    def close(self):
        self.call(0, 10, 50, struct.pack(">H", 200) + short_string("done") + struct.pack(">HH", 0, 0))
        self.expect(10, 51)
        self.socket.close()

    def call(self, channel, class_id, method_id, arguments):
        self.socket.sendall(frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments))

    def expect(self, class_id, method_id):
        """The arguments of the next method, which must be this one."""
        found, arguments = self.answer()
        if found != (class_id, method_id):
            raise ConnectionError(f"the broker says {found} instead of {(class_id, method_id)}: {arguments!r}")
        return arguments

    def answer(self):
        """The next method and its arguments."""
        while True:
            kind, payload = self.frame()
            if kind == METHOD:
                return struct.unpack(">HH", payload[:4]), payload[4:]

    def frame(self):
        kind, _channel, size = struct.unpack(">BHI", self.exactly(7))
        payload = self.exactly(size)
        if self.exactly(1)[0] != END:
            raise ConnectionError("a frame does not end where it should")
        return kind, payload

    def exactly(self, size):
        data = self.stream.read(size)
        if len(data) != size:
            raise ConnectionError("the broker closed the connection")
        return data


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([END])


def short_string(text):
    return bytes([len(text)]) + text.encode()


def long_string(data):
    return struct.pack(">I", len(data)) + data


table = long_string
