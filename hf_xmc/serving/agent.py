"""Tools for agents (Model Context Protocol): tag a text, search the labels, describe a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyio.to_thread import run_sync
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from hf_xmc import __version__
from hf_xmc.errors import XMCError
from hf_xmc.serving.batching import Batcher
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.tagging import TagOptions

INSTRUCTIONS = (
    "Labels out of a fixed catalogue for texts. tag_text gives the best labels of a text; search_labels and "
    "describe_label read the catalogue. Use the uid of a label to name it."
)


def tool_server(service: TaggingService, batcher: Callable[[], Batcher] | None = None) -> MCPServer[Any]:
    """The tools of a tagger: `tag_text`, `search_labels` and `describe_label`.

    Args:
        batcher: gives what collects the texts of requests that arrive together.
    """
    server: MCPServer[Any] = MCPServer("hf-xmc", instructions=INSTRUCTIONS, version=__version__)

    @server.tool()
    async def tag_text(text: str, k: int = 5, threshold: float | None = None) -> dict[str, Any]:
        """Find the labels of a text, best first, each with uid, name, definition, broader labels and, if the tagger is
        calibrated, the probability that it is right.

        Args:
            text: the text.
            k: number of labels, at most.
            threshold: leave out labels below this probability.
        """
        try:
            if batcher is None:
                [found] = await run_sync(service.tag, [text], k, threshold)
            else:
                [found] = await batcher().tag([text], TagOptions(k, threshold))
        except XMCError as error:
            raise ToolError(str(error)) from error
        return dict(found.to_dict())

    @server.tool()
    async def search_labels(words: str, limit: int = 20, offset: int = 0) -> dict[str, Any]:
        """Search the catalogue for labels whose name, other names or uid have all the words.

        Args:
            words: words of the name; none for all labels.
            limit: labels to return, at most 1,000.
            offset: labels to skip.
        """
        return dict((await answered(service.search_labels, words, limit, offset)).to_dict())

    @server.tool()
    async def describe_label(uid: str) -> dict[str, Any]:
        """Describe a label: name, other names, definition, address, broader and narrower labels.

        Args:
            uid: the uid of the label.
        """
        return dict((await answered(service.describe_label, uid)).to_dict())

    return server


async def answered(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a thread of its own; what the caller can act on becomes an error of the tool."""
    try:
        return await run_sync(lambda: call(*arguments))
    except XMCError as error:
        raise ToolError(str(error)) from error
