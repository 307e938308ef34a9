"""Texts of requests that arrive together go through the encoder together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any, TypeVar

from hf_xmc.serving.answers import Explained, Tagged
from hf_xmc.serving.limits import Limits, timed_out, too_busy
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.tagging import Encoded, TagOptions

BATCH = 64  # texts that wait for each other, at most
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Waiting:
    """A request that waits: its texts, what to return of their labels, the service that ranks them, and where the
    answer goes."""

    texts: list[str]
    options: TagOptions
    service: TaggingService
    answer: asyncio.Future[list[Tagged]]


class Batcher:
    """Collects the texts of requests while the encoder is busy, and lets it read them in one call: those of programs,
    agents and visitors of the page, who all wait in this one queue.

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
        self.loop: asyncio.AbstractEventLoop | None = None
        self.alone_waiting = 0

    async def __aenter__(self) -> Batcher:
        self.loop = asyncio.get_running_loop()
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

    async def tag(
        self, texts: Sequence[str], options: TagOptions, service: TaggingService | None = None
    ) -> list[Tagged]:
        """The labels of each text; see `TaggingService.tag`. A caller that is cancelled is not waited for.

        Args:
            service: that ranks the labels: the session of a visitor. By default the tagger itself.

        Raises:
            RequestRefused: a text, a number or an option outside the limits, too many that wait, or too long a wait.
        """
        service = service or self.service
        service.check(texts, options)
        if not texts:
            return []
        self.check_queue()
        one = Waiting(list(texts), options, service, asyncio.get_running_loop().create_future())
        self.waiting.append(one)
        self.arrived.set()
        return await self.in_time(one.answer)

    async def alone(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """The result of long work that keeps the encoder busy, such as an explanation: one after the other.

        Raises:
            RequestRefused: too many that wait, or too long a wait.
        """
        self.check_queue()
        self.alone_waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await self.in_time(loop.run_in_executor(self.explaining, lambda: call(*arguments)))
        finally:
            self.alone_waiting -= 1

    def from_thread(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The result of one of the methods above, for a thread that waits for it."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def check_queue(self) -> None:
        """Refuse a request if too many wait, other than those that were given up."""
        waiting = self.alone_waiting + sum(not one.answer.done() for one in self.waiting)
        most = self.service.limits.queue
        if waiting >= most:
            raise too_busy(f"{waiting:,} requests", f"{most:,}")

    async def in_time(self, answer: asyncio.Future[Answer]) -> Answer:
        """An answer that is given up if it takes too long."""
        try:
            async with asyncio.timeout(self.service.limits.seconds):
                return await answer
        except TimeoutError:
            raise timed_out(self.service.limits.seconds) from None

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
        """The answers of a batch: requests with the same options and labels are ranked together."""
        places: dict[tuple[TaggingService, TagOptions], list[int]] = {}
        ends: list[tuple[tuple[TaggingService, TagOptions], int]] = []
        row = 0
        for one in batch:
            how = one.service, one.options
            its = places.setdefault(how, [])
            ends.append((how, len(its)))
            its += range(row, row + len(one.texts))
            row += len(one.texts)
        found = {how: how[0].rank(encoded.take(rows), how[1]) for how, rows in places.items()}
        return [found[how][at : at + len(one.texts)] for one, (how, at) in zip(batch, ends, strict=True)]

    async def one_by_one(self, batch: list[Waiting], error: Exception) -> None:
        """Answer each request of a batch that failed by itself."""
        loop = asyncio.get_running_loop()
        for one in batch:
            if one.answer.done():
                continue
            result: Any = error
            if len(batch) > 1:
                call = self.service.encode, one.service.rank
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


@dataclass(frozen=True)
class Queued:
    """A service as threads use it that stand in the queue with everybody else.

    Args:
        service: the tagger, or a visitor's session over it.
        batcher: gives the queue.
    """

    service: TaggingService
    batcher: Callable[[], Batcher]

    @property
    def limits(self) -> Limits:
        """What is accepted."""
        return self.service.limits

    def tag(
        self,
        texts: Sequence[str],
        k: int = 5,
        threshold: float | str | None = None,
        conformal: bool | float = False,
        evidence: bool = False,
    ) -> list[Tagged]:
        """As `TaggingService.tag`.

        Raises:
            RequestRefused: see `Batcher.tag`.
        """
        queue = self.batcher()
        return queue.from_thread(queue.tag(texts, TagOptions(k, threshold, conformal, evidence), self.service))

    def explain(self, text: str, k: int = 3, labels: Sequence[str] | None = None) -> Explained:
        """As `TaggingService.explain`.

        Raises:
            RequestRefused: see `Batcher.alone`.
        """
        queue = self.batcher()
        return queue.from_thread(queue.alone(self.service.explain, text, k, labels))


def in_background(service: TaggingService) -> Callable[[], Batcher]:
    """A batcher for a program without an event loop of its own. It starts when it is first asked for, on a thread that
    ends with the process."""
    starting, made = Lock(), list[Batcher]()

    def batcher() -> Batcher:
        with starting:
            if not made:
                loop = asyncio.new_event_loop()
                Thread(target=loop.run_forever, name="batcher", daemon=True).start()
                made.append(asyncio.run_coroutine_threadsafe(Batcher(service).__aenter__(), loop).result())
        return made[0]

    return batcher
