"""A TCP proxy that counts what it carries."""

import asyncio

from tests.fakes.chaos_proxy import ChaosProxy


class CountingProxy(ChaosProxy):
    """Both directions together; a piece is what one side wrote at once, as long as it rests in between."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.pieces: list[int] = []  # their bytes

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.pieces.append(len(data))
            writer.write(data)
