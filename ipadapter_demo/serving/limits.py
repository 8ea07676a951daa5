"""The most that visitors may ask for, as the operator set it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline.price import Price
from ipadapter_demo.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`max_cost` of one request in calls of the model, `time_limit` in seconds of drawing,
    `visitor_requests` at once. None is no limit, as for whoever uses the code from Python."""

    max_cost: int | None = None
    time_limit: int | None = None
    visitor_requests: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those that are set; 0 is none."""
        return cls(
            max_cost=settings.max_cost or None,
            time_limit=settings.time_limit or None,
            visitor_requests=settings.visitor_requests or None,
        )

    def cost(self, prices: Sequence[Price], native_size: int) -> float:
        """Of one request, which may be several pictures, each with its price. Raises RequestError
        for one that costs too much."""
        total = sum(price.total for price in prices)
        if self.max_cost is not None and total > self.max_cost:
            times = f"{len(prices)} pictures x " if len(prices) > 1 else ""
            raise RequestError(
                f"the request costs {total:,.0f} calls of the model at {native_size}x"
                f"{native_size} pixels, and {self.max_cost:,} is the limit here (max_cost): "
                f"{times}{prices[0]}"
            )
        return total
