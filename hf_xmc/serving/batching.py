"""Texts of requests that arrive together go through the encoder together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from hf_xmc.serving.answers import Tagged
from hf_xmc.serving.service import Encoded, TaggingService, TagOptions

BATCH = 64  # texts that wait for each other, at most
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Waiting:
    """A request that waits: its texts, what to return of their labels, and where the answer goes."""

    texts: list[str]
    options: TagOptions
    answer: asyncio.Future[list[Tagged]]


class Batcher:
    """Collects the texts of requests while the encoder is busy, and lets it read them in one call.

    Encoding and ranking have a thread each, so that one batch is ranked while the next one is read. A request that
    fails does so alone: the others of its batch are then answered one by one.

    Args:
        service: the tagger.
        seen: is told the number of texts of each batch.
    """

    def __init__(self, service: TaggingService, seen: Callable[[int], object] = lambda texts: None) -> None:
        self.service, self.seen = service, seen
        self.waiting: deque[Waiting] = deque()
        self.arrived = asyncio.Event()
        self.encoding = ThreadPoolExecutor(1, "encode")
        self.ranking = ThreadPoolExecutor(1, "rank")
        self.explaining = ThreadPoolExecutor(1, "explain")
        self.tasks: set[asyncio.Task[None]] = set()
        self.worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher:
        self.worker = asyncio.create_task(self.work())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop; requests that still wait are given up."""
        assert self.worker is not None
        for task in (self.worker, *self.tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for one in self.waiting:
            one.answer.cancel()
        self.encoding.shutdown()
        self.ranking.shutdown()
        self.explaining.shutdown()

    async def tag(self, texts: Sequence[str], options: TagOptions) -> list[Tagged]:
        """The labels of each text; see `TaggingService.tag`. A caller that is cancelled is not waited for.

        Raises:
            RequestRefused: a text, a number or an option outside the limits.
        """
        self.service.check(texts, options)
        if not texts:
            return []
        one = Waiting(list(texts), options, asyncio.get_running_loop().create_future())
        self.waiting.append(one)
        self.arrived.set()
        return await one.answer

    async def alone(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """The result of long work that keeps the encoder busy, such as an explanation: one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self.explaining, lambda: call(*arguments))

    async def work(self) -> None:
        """Read batch after batch."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            batch = self.next_batch()
            if not batch:
                self.arrived.clear()
                continue
            texts = [text for one in batch for text in one.texts]
            self.seen(len(texts))
            try:
                encoded = await loop.run_in_executor(self.encoding, self.service.encode, texts)
            except Exception as error:
                await self.one_by_one(batch, error)
                continue
            while len(self.tasks) > 1:  # no more than one batch waits to be ranked
                await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self.rank(batch, encoded))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def next_batch(self) -> list[Waiting]:
        """The requests that waited longest and are still waited for; one of many texts is a batch of its own."""
        batch: list[Waiting] = []
        count = 0
        while self.waiting and (not batch or count + len(self.waiting[0].texts) <= BATCH):
            one = self.waiting.popleft()
            if not one.answer.done():  # given up
                batch.append(one)
                count += len(one.texts)
        return batch

    async def rank(self, batch: list[Waiting], encoded: Encoded) -> None:
        """Answer the requests of a batch."""
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self.ranking, self.ranked, batch, encoded)
        except Exception as error:
            await self.one_by_one(batch, error)
            return
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)

    def ranked(self, batch: list[Waiting], encoded: Encoded) -> list[list[Tagged]]:
        """The answers of a batch: requests with the same options are ranked together."""
        places: dict[TagOptions, list[int]] = {}
        ends: list[tuple[TagOptions, int]] = []
        row = 0
        for one in batch:
            its = places.setdefault(one.options, [])
            ends.append((one.options, len(its)))
            its += range(row, row + len(one.texts))
            row += len(one.texts)
        found = {options: self.service.rank(encoded.take(rows), options) for options, rows in places.items()}
        return [found[options][at : at + len(one.texts)] for one, (options, at) in zip(batch, ends, strict=True)]

    async def one_by_one(self, batch: list[Waiting], error: Exception) -> None:
        """Answer each request of a batch that failed by itself."""
        loop = asyncio.get_running_loop()
        for one in batch:
            if one.answer.done():
                continue
            result: Any = error
            if len(batch) > 1:
                call = self.service.encode, self.service.rank
                try:
                    encoded = await loop.run_in_executor(self.encoding, call[0], one.texts)
                    result = await loop.run_in_executor(self.ranking, call[1], encoded, one.options)
                except Exception as own:
                    result = own
            if one.answer.done():
                continue
            if isinstance(result, Exception):
                one.answer.set_exception(result)
            else:
                one.answer.set_result(result)
