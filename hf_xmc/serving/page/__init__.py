"""The page that `hf-xmc serve` and the Space show: tag a text or a file, browse the catalogue, review tags."""

from __future__ import annotations

from hf_xmc.serving.page.look import CSS, THEME
from hf_xmc.serving.page.page import build_page, launch_page, mount_page

__all__ = ["CSS", "THEME", "build_page", "launch_page", "mount_page"]
