"""What every kind of membership does alike: holds the current view, and tells who wants to know of a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cluster.membership.members import NodeInfo, OnChange, View


class Views:
    """The current view and its listeners. A listener that fails fails alone: it runs in a callback of its own."""

    def __init__(self) -> None:
        self.current = View()
        self._listeners: list[OnChange] = []

    def listen(self, callback: OnChange) -> Callable[[], None]:
        self._listeners.append(callback)

        def end() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return end

    def show(self, nodes: Iterable[NodeInfo], is_stale: bool, lingering: frozenset[str] = frozenset()) -> None:
        """Nobody is told of a view that says the same as the one before."""
        old = self.current
        new = View(tuple(nodes), old.number + 1, is_stale, lingering)
        if (old.nodes, old.is_stale, old.lingering) == (new.nodes, new.is_stale, new.lingering):
            return
        self.current = new
        loop = asyncio.get_running_loop()
        for listener in list(self._listeners):
            loop.call_soon(self._tell, listener, new)

    def _tell(self, listener: OnChange, view: View) -> None:
        # Views that came and went within one turn of the loop are passed over, and a listener that has ended hears nothing.
        if view is self.current and listener in self._listeners:
            listener(view)
