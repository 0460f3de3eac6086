"""Measures around a test: begin before its fixtures, end after they are gone; what a longer-lived fixture takes is its own.

A test that leaves nothing costs two readings. Only where a number rose is garbage collected, and only what is then still
beyond the limit is looked at closely: devices settle, everything is collected, numbers are read again, holders are named.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmguard.memory.children import count_of_children
from llmguard.memory.collector import Collector
from llmguard.memory.interface import LEVELS, DeviceMemory, Figures, devices, read
from llmguard.memory.outside import Outside
from llmguard.memory.tensors import gradients_of_others, is_tensor, size_of
from llmguard.memory.verdict import Drift, Kind, Slope, drift_of, is_falling, judge_growth, slope_of

__all__ = ["DEFAULT_LIMIT", "Charge", "Growth", "Guard", "bytes_of"]

DEFAULT_LIMIT = 2**19
"""Bytes that a test may leave where nothing else is said: 1 MiB is found at once, less as a drift."""
JUDGED = ("allocated", "pinned")
"""Levels that are exact, and this process' own."""
WAITS = (0.1, 0.4, 1.0)
"""Seconds between looks at memory that may be on its way back."""
NAMED = 3
Key = tuple[str, str]
"""Device and level."""


@dataclass(frozen=True)
class Growth:
    """What one test left on one device, at one level, and what was made of it.

    `owned`: bytes that new Python objects hold, `holders` what holds those; `due`: bytes that fixtures which were torn down with
    the test had taken before it; `process`: children that hold the bytes.
    """

    device: DeviceMemory
    level: str
    grown: int
    limit: int
    kind: Kind
    before: Figures
    after: Figures
    owned: int = 0
    holders: tuple[Any, ...] = ()
    slope: Slope | None = None
    fixture: str = ""
    process: str = ""
    due: int = 0


@dataclass
class Charge:
    """A fixture that outlives a test: what its set-up took, and what it made."""

    name: str
    taken: dict[Key, int]
    made: list[weakref.ref[Any]] = field(default_factory=list)

    def still_held(self) -> list[Any]:
        """What it made and is still alive."""
        return [found for ref in self.made if (found := ref()) is not None]


class Guard:
    """One process' guard. `begin` and `end` around each test; `charged` around the set-up of a fixture that outlives it."""

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.collector, self.outside = Collector(), Outside(sleep)
        self.history: dict[Key, list[int]] = {}
        self.drifting: set[Key] = set()
        self.first: dict[str, Figures] = {}
        self._sleep = sleep
        self._devices: tuple[DeviceMemory, ...] = ()
        self._start: dict[str, Figures] = {}
        self._gone: list[Charge] = []
        self._charged: dict[Key, int] = {}
        self._slopes: dict[Key, list[int]] = {}
        self._old: set[int] = set()
        self._theirs: set[int] = set()
        self._watching = False
        self._made: dict[str, list[weakref.ref[Any]]] = {}

    # around a test

    def begin(self, *, closely: bool = False) -> None:
        """Read what is held, and freeze what is there. `closely`: every level, the driver's too."""
        self._devices = devices()
        self._start = {d.name: read(d, LEVELS if closely else JUDGED) for d in self._devices}
        for name, figures in self._start.items():
            self.first.setdefault(name, figures)
        self._gone, self._charged, self._slopes, self._made = [], {}, {}, {}
        self._old, self._theirs, self._watching = set(), set(), True
        if closely:
            for device in self._devices:
                device.reset_peak()
            self.outside.learn(self._devices)
        self.collector.catch_up()
        self.collector.freeze()
        if not self.collector.frozen:  # the user froze: what is not frozen may be older than the test
            self._old = {id(each) for device in self._devices for each in device.objects(new=True)}

    def end(
        self, limit: int = DEFAULT_LIMIT, *, closely: bool = False, let_go: Callable[[], None] | None = None
    ) -> list[Growth]:
        """What the test left beyond the limit, judged; `let_go` is called before anything is looked at closely.

        Growths of kind LEAK are the test's, or its fixture's; those of other kinds are for the record.
        """
        try:
            now = self._collected(limit, let_go)
            beyond = [(d, key) for d, key in self._keys(now) if self._beyond(now, key, limit)]
            if beyond:  # what is new can be told only as long as what is old is frozen
                self._made = {device.name: self._new(device) for device in self._devices}
            found = [self._judged(device, key, limit) for device, key in beyond]
            found += self.outside.judge(self._devices, limit, closely=closely)
        finally:
            self.collector.thaw()
            self._watching = False
        self._note(found)
        return found

    def _collected(self, limit: int, let_go: Callable[[], None] | None) -> dict[str, Figures]:
        """What is held; only where it is more than before, what is held without garbage, and then without workspaces."""
        now = self._now()
        if not any(self._grown(now, key) >= d.resolution for d, key in self._keys(now)):
            return now
        if let_go is not None:
            let_go()
        self.collector.collect()
        now = self._now()
        grown = [device for device, key in self._keys(now) if self._grown(now, key) > limit]
        for device in grown:
            device.settle()
        return self._now() if grown else now

    def peak(self) -> dict[str, int]:
        """The most that was held beyond the beginning, for each device that keeps a peak."""
        peaks = {d.name: d.peak() for d in self._devices}
        return {name: peak - self._before(name).allocated for name, peak in peaks.items() if peak is not None}

    def repeated(self, run: Callable[[], None], times: int, first: dict[Key, int]) -> None:
        """Run a test's body so often again, and read after each: `end` judges by the slope. `first`: growth of the first run."""
        self._slopes = {key: [grown] for key, grown in first.items()}
        for _ in range(times):
            before = self.held()
            run()
            after = self.held()
            for key, growths in self._slopes.items():
                growths.append(after.get(key, 0) - before.get(key, 0))

    def held(self) -> dict[Key, int]:
        """What is held now, once garbage is collected: for each device and exact level."""
        self.collector.collect()
        now = self._now()
        return {key: now[key[0]].of(key[1]) or 0 for _, key in self._keys(now)}

    # around the set-up of a fixture that outlives the test

    def charged(self, name: str, before: dict[Key, int], limit: int = DEFAULT_LIMIT) -> Charge:
        """Charge a fixture with what its set-up took since `before` (`fast`): it is not the test's until the fixture is gone."""
        now = self.fast()
        if any(value - before.get(key, 0) > limit for key, value in now.items()):
            self.collector.collect()
            now = self.fast()
        charge = Charge(name, {key: value - before.get(key, 0) for key, value in now.items()})
        for key, value in charge.taken.items():
            self._charged[key] = self._charged.get(key, 0) + value
        for device in self._devices if self._watching else ():
            if charge.taken.get((device.name, "allocated"), 0) >= device.resolution:
                charge.made += self._new(device)
        self._theirs.update(id(each) for each in charge.still_held())
        self.outside.learn(self._devices)
        return charge

    def fast(self) -> dict[Key, int]:
        """What is held now, garbage included, without what fixtures of this test were charged with."""
        now = self._now()
        return {key: (now[key[0]].of(key[1]) or 0) - self._charged.get(key, 0) for _, key in self._keys(now)}

    def ended(self, charge: Charge) -> None:
        """A charged fixture is about to be torn down: its bytes are due back by the end of this test.

        What is frozen is thawed: a teardown that collects garbage must find what the set-up made.
        """
        if self.collector.frozen:
            self._made = {device.name: self._new(device) for device in self._devices}
            self.collector.thaw()
        self._gone.append(charge)

    def drift(self, key: Key, resolution: int) -> Drift | None:
        """The drift of a device and level, told once."""
        drift = None if key in self.drifting else drift_of(self.history.get(key, ()), resolution)
        if drift is not None:
            self.drifting.add(key)
        return drift

    # numbers

    def _now(self) -> dict[str, Figures]:
        self._devices = devices()
        return {device.name: read(device, JUDGED) for device in self._devices}

    def _keys(self, now: dict[str, Figures]) -> list[tuple[DeviceMemory, Key]]:
        return [
            (d, (d.name, level))
            for d in self._devices
            for level in JUDGED
            if now[d.name].of(level) is not None
        ]

    def _before(self, name: str) -> Figures:
        """A device that was not there when the test began held nothing."""
        return self._start.get(name) or Figures(0, pinned=0)

    def _grown(self, now: dict[str, Figures], key: Key) -> int:
        name, level = key
        taken = (now[name].of(level) or 0) - (self._before(name).of(level) or 0)
        return taken - self._charged.get(key, 0) + self._due(key)

    def _due(self, key: Key) -> int:
        """Bytes that fixtures which are torn down have to give back."""
        return sum(charge.taken.get(key, 0) for charge in self._gone)

    def _beyond(self, now: dict[str, Figures], key: Key, limit: int) -> bool:
        """Whether it is worth a closer look; the growth is noted for the drift of the session."""
        grown = self._grown(now, key)
        self.history.setdefault(key, []).append(grown)
        return grown > limit or (grown > 0 and self._slopes.get(key, [0])[-1] > 0)

    def _new(self, device: DeviceMemory) -> list[weakref.ref[Any]]:
        """What was made since the test began and holds bytes of a device; what a fixture that outlives it made is not among it."""
        if device.name in self._made:
            return self._made[device.name]
        known = self._old | self._theirs
        return [weakref.ref(each) for each in device.objects(new=True) if id(each) not in known]

    # a closer look

    def _judged(self, device: DeviceMemory, key: Key, limit: int) -> Growth:
        level = key[1]
        refs = [ref for ref in self._new(device) if is_pinned(ref()) == (level == "pinned")]
        self.collector.collect_all()
        readings = self._readings(key, limit)
        alive = [each for ref in refs if (each := ref()) is not None]
        theirs = gradients_of_others(alive)  # a parameter has one: no second one follows
        alive = [each for each in alive if not any(each is one for one in theirs)]
        grown = readings[-1] - sum(map(bytes_of, theirs))
        owned, falling = sum(map(bytes_of, alive)), is_falling(readings, device.resolution)
        slope = self._slope(key, limit, device.resolution, grown)
        kind = judge_growth(grown, limit, owned=owned, slope=slope, falling=falling)
        fixture, held = self._fixture(limit) if kind in (Kind.LEAK, Kind.ONCE) else ("", [])
        if fixture and not owned:
            alive, owned, kind = held, sum(map(bytes_of, held)), Kind.LEAK
        holders = _explained(alive) if kind is Kind.LEAK else ()
        self.history[key][-1] = 0 if kind is Kind.ONCE else grown
        return Growth(
            device, level, grown, limit, kind, self._before(device.name), read(device), owned, holders, slope, fixture,
            due=self._due(key),
        )  # fmt: skip

    def _readings(self, key: Key, limit: int) -> list[int]:
        """The growth, read again while threads or processes of ours may be about to give it back."""
        readings = [self._grown(self._now(), key)]
        for wait in WAITS:
            if readings[-1] <= limit or (threading.active_count() == 1 and not count_of_children()):
                break
            self._sleep(wait)
            readings.append(self._grown(self._now(), key))
        return readings

    def _slope(self, key: Key, limit: int, resolution: int, grown: int) -> Slope | None:
        """What repeating said; what fixtures held while the body ran, and have given back, is no slope."""
        growths = self._slopes.get(key)
        if not growths or len(growths) < 2:
            return None
        slope = slope_of(growths, limit, resolution)
        return slope if grown >= slope.each else Slope(slope.growths, 0, leak=False)

    def _fixture(self, limit: int) -> tuple[str, list[Any]]:
        """A fixture that is torn down and whose objects are still there; its name and what it left."""
        for charge in self._gone:
            held = charge.still_held()
            if sum(map(bytes_of, held)) > limit:
                return charge.name, held
        return "", []

    def _note(self, found: Sequence[Growth]) -> None:
        """A leak that was told is not told again as a drift."""
        for growth in found:
            if growth.kind is Kind.LEAK and (history := self.history.get((growth.device.name, growth.level))):
                history.pop()


def is_pinned(found: Any) -> bool:
    """Whether a tensor is page-locked host memory."""
    told = getattr(found, "is_pinned", False)
    return bool(told() if callable(told) else told)


def bytes_of(found: Any) -> int:
    """Bytes that an object holds on its device."""
    return size_of(found) if is_tensor(found) else int(getattr(found, "nbytes", 0))


def _explained(found: list[Any]) -> tuple[Any, ...]:
    from llmguard.memory.holders import explain

    return tuple(explain(found, limit=NAMED))
