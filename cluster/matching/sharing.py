"""A queue over several nodes: what this node's shares do by the tables of `meeting.py`, and what other nodes' news does to them.

Everything is synchronous. `Post` takes what is to be sent and brings back answers, or the word that a message was not
delivered: then all that was on its way to that node is this node's matter again (it may exist twice: the run decides).
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from cluster.matching.fairness import Entry, EntryState
from cluster.matching.meeting import CHILD_NEEDS, ROOT_NEEDS, Interest, Need, PartAnswer, PartLink, PartNews
from cluster.matching.partition import Partition
from cluster.matching.queries import DirectQuery
from cluster.matching.sharing_ports import Placement, Post, not_here
from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from cluster.matching.window import Offered, TaskKey, key_of

if TYPE_CHECKING:
    from cluster.matching.matcher import Matcher


class Sharing:
    """See the module's text. One per node that has others."""

    def __init__(self, matcher: Matcher, placement: Placement, post: Post) -> None:
        self.placement = placement
        self._matcher, self._post = matcher, post
        self._limits = matcher.limits
        self._timer: asyncio.TimerHandle | None = None
        self._serial = 0  # numbers what is said of idle polls: messages and answers overtake each other

    # --- who has a share --------------------------------------------------------------------------------------------------
    def is_here(self, queue: QueueKey) -> bool:
        return self.placement.me in self.placement.nodes_of(queue)

    def link_for(self, queue: QueueKey) -> PartLink | None:
        """None: this node's share is the whole queue."""
        nodes, me = self.placement.nodes_of(queue), self.placement.me
        others = frozenset(nodes) - {me}
        if not others or me not in nodes:
            return None
        if self._timer is None and not self._matcher.is_draining:
            self._timer = asyncio.get_running_loop().call_later(self._limits.lease_check_s, self._check_leases)
        lives = {node: self.placement.incarnation_of(node) for node in others}
        return PartLink(queue, self._limits, "" if nodes[0] == me else nodes[0], lives, self._post.mark)

    def placement_changed(self) -> None:
        """Shares that are others' now end; the rest gets to know its new neighbours."""
        for partition in list(self._matcher.partitions.values()):
            if self.is_here(partition.key):
                self._relink(partition)
            else:
                self._matcher.drop(partition, not_here())

    def _relink(self, partition: Partition) -> None:
        old, new = partition.link, self.link_for(partition.key)
        if old is None and new is None:
            return
        if old is not None and new is not None and (old.root_id, old.others) == (new.root_id, new.others):
            return
        partition.link = new
        guests: dict[TaskKey, str] = {}
        if old is not None:
            if new is not None and old.is_root and new.is_root:
                # Children that live on told this root and forwarded to it, perhaps by a newer ring than it had then: they will
                # not do so again soon. A guest that should have gone costs one TaskGone.
                lives_on = {node for node, life in new.others.items() if old.others.get(node) == life}
                new.interest = {node: interest for node, interest in old.interest.items() if node in lives_on}
                guests = {key: node for key, node in old.guests.items() if node in lives_on}
            for away in old.away.values():
                partition.window.put_back(away.entry)
        for entry in partition.window.entries():
            key, node = key_of(entry.hint), self.placement.node_of(entry.hint)
            if new is not None and guests.get(key) == node:
                new.guests[key] = node
            elif node != self.placement.me:
                self._forget(partition, entry)
        partition.configure()
        for query in partition.queries:
            query.passed_to.clear()
        self._matcher.settle(partition)

    def _forget(self, partition: Partition, entry: Entry) -> None:
        """Another share has it, or its shard offers it there."""
        if entry.state is EntryState.IN_FLIGHT:
            entry.withdrawn, entry.offered_again = True, False
        else:
            partition.window.remove(entry)

    # --- what this share does -----------------------------------------------------------------------------------------------
    def polled(self, partition: Partition, now: float) -> None:
        """A poll has come. The root must know of pollers, for queries, even if they are never idle."""
        link = partition.link
        assert link is not None
        if not link.is_root and now >= link.told_pollers_until:
            self._tell(link, now)

    def look(self, partition: Partition) -> None:
        """Something changed, and what could meet here has met."""
        link = partition.link
        assert link is not None
        now = asyncio.get_running_loop().time()
        window = partition.window
        window.release(now)
        has_tasks, has_polls = window.waiting_count > 0, partition.has_waiting_poll()
        if not link.is_root:
            if not has_tasks:
                link.lacking_since = None
            need = CHILD_NEEDS[has_tasks, has_polls, link.is_told]
            if need is Need.FORWARD or (has_tasks and not partition.meets_here):
                self._forward(partition, link, now)
            if need is Need.TELL or (has_polls and not link.is_told and not partition.meets_here):
                self._tell(link, now)
            has_taker = True
        else:
            has_taker = link.idlest(now) is not None
            if ROOT_NEEDS[has_tasks, has_polls, has_taker] is Need.LEND:
                self._lend(partition, link, now)
            for query in partition.queries:
                self._pass_on(partition.key, query, link, now)
        if has_taker and not (has_polls and partition.meets_here) and now < (due := window.next_at(now)) < math.inf:
            self._matcher.wake_at(partition, due)

    def _forward(self, partition: Partition, link: PartLink, now: float) -> None:
        limits = self._limits
        if link.lacking_since is None:
            link.lacking_since = now
        if partition.meets_here:
            # Polls of a busy share come back in a moment: its tasks need not travel.
            due = min(partition.last_polled_at + limits.forward_wait_s, link.lacking_since + limits.forward_wait_max_s)
            if due > now:
                self._matcher.wake_at(partition, due)
                return
        while len(link.away) < limits.forward_hints_max and (entry := partition.window.take(now)) is not None:
            link.send(entry, link.root_id, math.inf)
        link.refresh_at = min(link.refresh_at, now + limits.interest_refresh_s)

    def _tell(self, link: PartLink, now: float) -> None:
        link.news_for(link.root_id).tells = True
        link.is_told = True
        link.told_pollers_until = now + self._limits.polled_told_s
        link.refresh_at = min(link.refresh_at, now + self._limits.interest_refresh_s)

    def _lend(self, partition: Partition, link: PartLink, now: float) -> None:
        while (node := link.idlest(now)) is not None:
            entry = partition.window.take(now)
            if entry is None:
                return
            link.interest[node].idle -= 1
            link.send(entry, node, now + self._limits.lend_lease_s)

    def _pass_on(self, queue: QueueKey, query: DirectQuery, link: PartLink, now: float) -> None:
        if not query.is_over:
            for node in link.polled_children(now):
                if node not in query.passed_to:
                    query.passed_to.add(node)
                    self._post.pass_query(queue, query, node)

    def offered_again(self, partition: Partition, hint: TaskHint) -> None:
        """By its shard, to its own share: what the root has of it must be as fresh."""
        link, key = partition.link, key_of(hint)
        assert link is not None
        link.guests.pop(key, None)
        if not link.is_root and key in link.away:
            link.news_for(link.root_id).guests[key] = hint

    def withdraw(self, partition: Partition, key: TaskKey, shard: int) -> None:
        link = partition.link
        assert link is not None
        if key in link.away:
            partition.window.remove(link.recall(key))
        else:
            partition.window.withdraw_key(key, shard)

    # --- to and from the other shares ---------------------------------------------------------------------------------------
    def compose(self, queue: QueueKey, node: str) -> PartNews | None:
        """What `mark` announced; None if there is nothing to say any more."""
        partition = self._matcher.partitions.get(queue)
        link = partition.link if partition is not None else None
        pending = link.take_news(node) if link is not None else None
        if pending is None or partition is None or link is None:
            return None
        guests, over = list(pending.guests.values()), list(pending.over)
        news = PartNews(queue, guests, over, list(pending.returned), list(pending.failed), pending.is_whole)
        if pending.tells:
            now = asyncio.get_running_loop().time()
            news.idle, news.serial = partition.idle_count(), self._next_serial()
            news.has_pollers = partition.has_poller(now, self._limits.query_poller_s)
            news.rate = partition.worker_rate
            link.is_told = news.idle > 0
        return news

    def take_news(self, sender: str, news: PartNews) -> PartAnswer:
        answer = PartAnswer(news.queue)
        nodes = self.placement.nodes_of(news.queue)
        if self._matcher.is_draining or not self._is_neighbour(nodes, sender):
            answer.not_here = True
            return answer
        now = asyncio.get_running_loop().time()
        partition = self._matcher.partitions.get(news.queue) or self._matcher.open(news.queue, now, is_wanted=False)
        link = partition.link if partition is not None else None
        if partition is None or link is None:
            answer.returned = [key_of(hint) for hint in news.guests]
            return answer
        self._settle_named(partition, link, sender, news)
        for hint in news.guests:
            if not link.is_root:
                self._borrow(partition, link, hint, sender, answer, now)
            elif partition.window.offer(hint) is Offered.ADDED:
                link.guests[key_of(hint)] = sender
        partition.used_at = now
        if link.is_root and news.idle is not None:
            polled_until = now + self._limits.query_poller_s + self._limits.polled_told_s if news.has_pollers else -math.inf
            link.learn(sender, Interest(news.idle, now + self._limits.interest_s, polled_until, news.serial))
            if news.idle and partition.key.kind is TaskKind.ACTIVITY:
                partition.ask_rate(news.rate)
        self._matcher.settle(partition)
        answer.idle, answer.serial = partition.idle_count(), self._next_serial()
        if not link.is_root:
            link.is_told = answer.idle > 0
        return answer

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def _is_neighbour(self, nodes: tuple[str, ...], sender: str) -> bool:
        """One of us is the root, and both have a share, by this node's ring."""
        me = self.placement.me
        return sender != me and me in nodes and sender in nodes and nodes[0] in (me, sender)

    def _settle_named(self, partition: Partition, link: PartLink, sender: str, news: PartNews) -> None:
        for key in news.over:
            self._over(partition, link, key, sender)
        for key in (*news.returned, *news.failed):
            self._came_back(partition, link, key, sender, has_failed=key in news.failed)
        if news.is_whole:
            listed = {key_of(hint) for hint in news.guests}
            for key in [key for key, origin in link.guests.items() if origin == sender and key not in listed]:
                self._over(partition, link, key, sender)

    def _borrow(
        self, partition: Partition, link: PartLink, hint: TaskHint, sender: str, answer: PartAnswer, now: float
    ) -> None:
        """A hint from the root, into the hands of a parked poll or back."""
        key = key_of(hint)
        if not partition.has_waiting_poll():
            answer.returned.append(key)
            return
        if (away := link.away.pop(key, None)) is not None:  # what this share forwarded finds a poll of its own
            if (pending := link.pending.get(sender)) is not None:
                pending.guests.pop(key, None)
            entry = away.entry
        elif partition.window.entry(key) is not None:
            answer.own.append(key)
            return
        else:
            entry = partition.window.adopt(hint)
        link.guests[key] = sender
        partition.dispatch_rate.add(now)
        self._matcher.count("lent_match", partition.key.kind)
        partition.hand_over(entry, now)

    def _over(self, partition: Partition, link: PartLink, key: TaskKey, sender: str) -> None:
        """Started or gone there (what this share sent), or withdrawn by its origin (what this share got)."""
        entry = partition.window.entry(key)
        away = link.away.get(key)
        if away is not None and away.node_id == sender:
            del link.away[key]
            if away.entry.offered_again:
                partition.window.put_back(away.entry)
            else:
                partition.window.remove(away.entry)
                link.ended(key)  # a guest that was lent on: its origin hears of it
        elif link.guests.get(key) == sender:
            del link.guests[key]
            link.away.pop(key, None)
            if away is not None:
                partition.window.remove(away.entry)
            elif entry is not None:
                self._forget(partition, entry)

    def _came_back(self, partition: Partition, link: PartLink, key: TaskKey, sender: str, *, has_failed: bool) -> None:
        away = link.away.get(key)
        if away is None or away.node_id != sender:
            return
        del link.away[key]
        if has_failed:
            self._matcher.delay(partition, away.entry, is_transient=True)
        else:
            partition.window.put_back(away.entry)
        if partition.window.entry(key) is None:
            link.guests.pop(key, None)

    # --- what became of messages ------------------------------------------------------------------------------------------
    def take_answer(self, node: str, news: PartNews, answer: PartAnswer) -> bool:
        """False: the other node does not see it as this one does; to be tried again later."""
        partition = self._matcher.partitions.get(news.queue)
        link = partition.link if partition is not None else None
        if partition is None or link is None or not link.is_partner(node):
            return True
        if answer.not_here:
            self.undelivered(node, news)
            return False
        for key in answer.returned:
            # The root has no room: not at once again. A child's poll had gone: the next one is told of.
            self._came_back(partition, link, key, node, has_failed=not link.is_root)
        for key in answer.own:
            if link.guests.get(key) == node:
                self._over(partition, link, key, node)
            else:
                self._came_back(partition, link, key, node, has_failed=True)
        if link.is_root:
            now = asyncio.get_running_loop().time()
            known = link.interest.get(node)
            polled_until = known.polled_until if known is not None else -math.inf
            link.learn(node, Interest(answer.idle, now + self._limits.interest_s, polled_until, answer.serial))
        self._matcher.settle(partition)
        return True

    def undelivered(self, node: str, news: PartNews) -> None:
        """Perhaps it was; the run decides. What was to be said is said again, later."""
        partition = self._matcher.partitions.get(news.queue)
        link = partition.link if partition is not None else None
        if partition is None or link is None or not link.is_partner(node):
            return
        pending = link.news_for(node)
        pending.guests.clear()
        rest_until = None if link.is_root else asyncio.get_running_loop().time() + self._limits.hop_retry_s
        for key in [key for key, away in link.away.items() if away.node_id == node]:
            partition.window.put_back(link.away.pop(key).entry, rest_until)
        if (interest := link.interest.get(node)) is not None:
            interest.idle, interest.polled_until = 0, -math.inf  # the answer to the next message says how it is
        pending.over.update(dict.fromkeys(news.over))
        pending.returned.update(dict.fromkeys(news.returned))
        pending.failed.update(dict.fromkeys(news.failed))
        pending.is_whole = not link.is_root
        pending.tells = not link.is_root
        self._matcher.settle(partition)

    # --- in time --------------------------------------------------------------------------------------------------------
    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_leases(self) -> None:
        """What was lent and not heard of comes back; what the root was told is told again before it forgets."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        has_links = False
        for partition in list(self._matcher.partitions.values()):
            link = partition.link
            if link is None:
                continue
            has_links = True
            if link.is_root:
                lapsed = [(key, away.node_id) for key, away in link.away.items() if away.until <= now]
                for key, node in lapsed:
                    self._came_back(partition, link, key, node, has_failed=False)
                if lapsed:
                    self._matcher.settle(partition)
            elif link.refresh_at <= now:
                self._refresh(partition, link, now)
        if has_links:
            self._timer = asyncio.get_running_loop().call_later(self._limits.lease_check_s, self._check_leases)

    def _refresh(self, partition: Partition, link: PartLink, now: float) -> None:
        link.refresh_at = math.inf
        if not (link.is_told or link.away or partition.parked):
            return
        pending = link.news_for(link.root_id)
        pending.is_whole = pending.tells = True
        pending.guests.update({key: away.entry.hint for key, away in link.away.items()})
        link.refresh_at = now + self._limits.interest_refresh_s
